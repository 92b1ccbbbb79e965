use http::header::{self, HeaderName};
use http::{HeaderValue, Response};
use http_body::Body;

use super::answer::{NoBody, RejectBody};
use super::grpc;
use super::head::RequestHead;
use crate::flow::{RejectReason, Rejection};

/// Answers rejected requests, in front of a service whose responses have the body `B`.
///
/// Closures are such hooks: `Fn(&Rejection, RequestHead<'_>) -> Response<C>`, where `C` has the
/// data of `B` and an error that converts to that of `B`. The response goes out as it is.
///
/// ```
/// use http::Response;
/// use http_body::Body;
/// use tower_aperture::Rejection;
/// use tower_aperture::layer::{NoBody, OnReject, RequestHead};
///
/// /// Sends people to a waiting room.
/// struct WaitingRoom;
///
/// impl<B: Body> OnReject<B> for WaitingRoom {
///     type Body = NoBody;
///
///     fn on_reject(&self, _: &Rejection, _: RequestHead<'_>) -> Response<NoBody> {
///         let mut response = Response::new(NoBody);
///         *response.status_mut() = http::StatusCode::SEE_OTHER;
///         response.headers_mut().insert("location", http::HeaderValue::from_static("/wait"));
///         response
///     }
/// }
/// ```
pub trait OnReject<B>
where
    B: Body,
{
    /// The body of the answer.
    type Body: RejectBody<B>;

    /// Builds the answer. It runs on the request's path and must not block.
    fn on_reject(&self, rejection: &Rejection, head: RequestHead<'_>) -> Response<Self::Body>;
}

impl<F, B, C> OnReject<B> for F
where
    F: Fn(&Rejection, RequestHead<'_>) -> Response<C>,
    B: Body,
    C: Body<Data = B::Data>,
    C::Error: Into<B::Error>,
{
    type Body = C;

    fn on_reject(&self, rejection: &Rejection, head: RequestHead<'_>) -> Response<C> {
        self(rejection, head)
    }
}

/// The answer without a hook: the [status of the rejection](Rejection::status), `retry-after` in
/// whole seconds when the wait is known, the [headers of the rejection](Rejection::headers), and an
/// empty body. ([`AgentReject`](crate::layer::AgentReject) sends the body of the rejection too.)
///
/// A gRPC request gets what its clients understand: a 200 that is all head, with `grpc-status`,
/// `grpc-message`, and for a known wait `retry-after` and `grpc-retry-pushback-ms`.
///
/// | status of the rejection | gRPC code |
/// |---|---|
/// | 400 | InvalidArgument |
/// | 401 | Unauthenticated |
/// | 403 | PermissionDenied |
/// | 404 | NotFound |
/// | 408, 504 | DeadlineExceeded |
/// | 409 | Aborted |
/// | 412 | FailedPrecondition |
/// | 429 | ResourceExhausted |
/// | 500 | Internal |
/// | 501 | Unimplemented |
/// | 502, 503 | Unavailable |
/// | other | Unknown |
///
/// Use it from a hook of your own for the requests that you do not want to answer differently:
///
/// ```
/// use std::time::Duration;
/// use http_body_util::Full;
/// use tower_aperture::layer::{DefaultReject, OnReject, RequestHead};
/// use tower_aperture::{Denial, RejectReason, Rejection};
///
/// let denial = Denial::new(RejectReason::RateLimited).wait(Duration::from_millis(1200));
/// let rejection = Rejection::new("checkout", denial);
/// let request = http::Request::new(());
/// let response = OnReject::<Full<bytes::Bytes>>::on_reject(
///     &DefaultReject,
///     &rejection,
///     RequestHead::new(&request),
/// );
/// assert_eq!(response.status(), 429);
/// assert_eq!(response.headers()["retry-after"], "2");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultReject;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

impl<B: Body> OnReject<B> for DefaultReject {
    type Body = NoBody;

    fn on_reject(&self, rejection: &Rejection, head: RequestHead<'_>) -> Response<NoBody> {
        let mut response = Response::new(NoBody);
        if let Some(content_type) = grpc::content_type(head.headers()) {
            let code = HeaderValue::from_static(grpc::code(rejection.status()));
            let message = HeaderValue::from_static(message(rejection.reason()));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, content_type);
            headers.insert(GRPC_STATUS, code);
            headers.insert(GRPC_MESSAGE, message);
            if let Some(wait) = rejection.retry_after() {
                let millis = wait.as_nanos().div_ceil(1_000_000);
                // Clients read a signed 64-bit number.
                let millis = i64::try_from(millis).unwrap_or(i64::MAX);
                headers.insert(GRPC_PUSHBACK, HeaderValue::from(millis));
            }
        } else {
            *response.status_mut() = rejection.status();
        }
        if let Some(more) = rejection.headers() {
            // What the protocol needs stays as it is.
            for (name, value) in more {
                response
                    .headers_mut()
                    .entry(name)
                    .or_insert_with(|| value.clone());
            }
        }
        if let Some(secs) = rejection.retry_after_secs() {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}

/// The reason in words. ASCII without `%`, so nothing is left to percent-encode, and without the
/// control point, which is nobody's business outside.
const fn message(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::RateLimited => "rejected: rate limited",
        RejectReason::NoTokens => "rejected: no capacity in time",
        RejectReason::NotSampled => "rejected: not sampled",
        RejectReason::NoMatchingRamp => "rejected: no ramp lets it in",
        RejectReason::Unreachable => "rejected: flow control is unreachable",
        RejectReason::Unknown => "rejected by flow control",
    }
}
