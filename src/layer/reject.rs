//! Answers to rejected requests.

use http::{HeaderValue, Response, header};
use http_body::Body;

use super::answer::{NoBody, RejectBody};
use super::grpc;
use super::head::RequestHead;
use crate::flow::Rejection;

/// Keeps caches from storing rejections: policies may choose a status that caches keep, and RFC
/// 6585, section 4, forbids to keep a 429.
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Answers rejected requests, in front of a service whose responses have the body `B`.
///
/// Closures are such hooks: `Fn(&Rejection, RequestHead<'_>) -> Response<C>`, where `C` has the
/// data of `B` and an error that converts to that of `B`. The response goes out as it is, with
/// `cache-control: no-store` unless it has a `cache-control` of its own: caches must not answer
/// other clients with a rejection.
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
/// whole seconds when the wait is known, `cache-control: no-store` (RFC 6585, section 4), the other
/// [headers of the rejection](Rejection::headers), and an empty body. ([`AgentReject`](crate::layer::AgentReject) sends the body of the rejection too.)
///
/// A gRPC request (a POST with the media type `application/grpc` or a relative of it, such as
/// `application/grpc-web-text+proto`) gets what its clients understand: a 200 that is all head, with `grpc-status`,
/// `grpc-message`, and for a known wait `retry-after` and `grpc-retry-pushback-ms`. A
/// `grpc-status-details-bin` has Google's error details: `RetryInfo` for a known wait, and
/// `QuotaFailure` where a limiter or scheduler said no, with the control point for its subject
/// (`control_point:NAME`, when that is no longer than 256 bytes) and the reason for its
/// description.
///
/// | status of the rejection | gRPC code |
/// |---|---|
/// | 400 | InvalidArgument |
/// | 401 | Unauthenticated |
/// | 403 | PermissionDenied |
/// | 404 | NotFound |
/// | 408, 504 | DeadlineExceeded |
/// | 409 | Aborted, or [AlreadyExists](Self::already_exists) |
/// | 412 | FailedPrecondition |
/// | 413, 429 | ResourceExhausted |
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
///     &DefaultReject::new(),
///     &rejection,
///     RequestHead::new(&request),
/// );
/// assert_eq!(response.status(), 429);
/// assert_eq!(response.headers()["retry-after"], "2");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultReject {
    already_exists: bool,
}

impl DefaultReject {
    /// The answers that a layer gives by itself.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            already_exists: false,
        }
    }

    /// Whether gRPC clients are told of a 409 as AlreadyExists, and not as Aborted.
    ///
    /// ```
    /// # let client = tower_aperture::ApertureClient::disabled();
    /// use tower_aperture::ApertureLayer;
    /// use tower_aperture::layer::DefaultReject;
    ///
    /// let layer = ApertureLayer::new(client, "checkout")
    ///     .reject_with(DefaultReject::new().already_exists(true));
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub const fn already_exists(mut self, already_exists: bool) -> Self {
        self.already_exists = already_exists;
        self
    }
}

impl<B: Body> OnReject<B> for DefaultReject {
    type Body = NoBody;

    fn on_reject(&self, rejection: &Rejection, head: RequestHead<'_>) -> Response<NoBody> {
        let mut response = Response::new(NoBody);
        if let Some(content_type) = grpc::content_type(head) {
            let headers = response.headers_mut();
            grpc::refuse(headers, content_type, rejection, self.already_exists);
        } else {
            *response.status_mut() = rejection.status();
        }
        let headers = response.headers_mut();
        // Whatever the rejection says: a cache would answer clients that are within their limits.
        headers.insert(header::CACHE_CONTROL, NO_STORE);
        if let Some(secs) = rejection.retry_after_secs() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        if let Some(more) = rejection.headers() {
            for name in more.keys() {
                // What the protocol needs stays as it is.
                if headers.contains_key(name) {
                    continue;
                }
                for value in more.get_all(name) {
                    // Full at 32768 values; what does not fit is left out.
                    let _ = headers.try_append(name, value.clone());
                }
            }
        }
        response
    }
}
