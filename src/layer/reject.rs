//! Reject hooks, which build the responses to rejected requests.

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::Body;

use super::grpc;
use super::head::RequestHead;
use super::replacement_body::{NoBody, RejectBody};
use crate::flow::Rejection;

/// Prevents caches from storing rejections: policies may set a status that caches store by default,
/// and RFC 6585, section 4, forbids to store a 429.
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Returns a number as a header value. Numbers below 100, as of most waits, need no memory.
pub(super) fn number(number: u64) -> HeaderValue {
    /// Two digits for each number.
    static DIGITS: &str = "00010203040506070809101112131415161718192021222324\
     25262728293031323334353637383940414243444546474849\
     50515253545556575859606162636465666768697071727374\
     75767778798081828384858687888990919293949596979899";
    let at = match usize::try_from(number) {
        Ok(small @ 0..=99) => 2 * small,
        _ => {
            let mut text = itoa::Buffer::new();
            let text = Bytes::copy_from_slice(text.format(number).as_bytes());
            return HeaderValue::from_maybe_shared(text).expect("digits are a valid value");
        }
    };
    let start = if number < 10 { at + 1 } else { at };
    HeaderValue::from_static(&DIGITS[start..at + 2])
}

/// A reject hook: builds the responses to rejected requests, for a service whose responses have the
/// body `B`.
///
/// Implemented for closures `Fn(&Rejection, RequestHead<'_>) -> Response<C>`, where `C` has the
/// data type of `B` and an error that converts to the error of `B`. The layer sends the response
/// unchanged, except that it adds `cache-control: no-store` if the response has no `cache-control`:
/// caches must not send a rejection to other clients.
///
/// ```
/// use http::Response;
/// use http_body::Body;
/// use tower_aperture::Rejection;
/// use tower_aperture::layer::{NoBody, OnReject, RequestHead};
///
/// /// Redirects clients to a waiting room.
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
    /// The body of the response.
    type Body: RejectBody<B>;

    /// Builds the response. Runs on the request path and must not block.
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

/// The default reject hook.
///
/// The response has the [status of the rejection](Rejection::status), `retry-after` in whole
/// seconds if the wait is known, `cache-control: no-store` (RFC 6585, section 4), the other
/// [headers of the rejection](Rejection::headers), and an empty body.
/// ([`AgentReject`](crate::layer::AgentReject) also sends the body of the rejection.)
///
/// A gRPC request (a POST with the media type `application/grpc` or a variant such as
/// `application/grpc-web-text+proto`) gets a gRPC response: status 200 without a body, with
/// `grpc-status`, `grpc-message` and, if the wait is known, `retry-after` and
/// `grpc-retry-pushback-ms`. The header `grpc-status-details-bin` contains Google's error details:
/// `RetryInfo` if the wait is known, and `QuotaFailure` if a limiter or scheduler rejected the
/// request. The subject of the `QuotaFailure` is `control_point:NAME` and its description is the
/// reason; it is omitted if the control point is longer than 256 bytes.
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
/// Call it from a custom hook for the requests that should get the default response:
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
    /// Creates the hook that a layer uses by default.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            already_exists: false,
        }
    }

    /// Sets whether gRPC clients get AlreadyExists for a 409, instead of Aborted.
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
            grpc::write_rejection(headers, content_type, rejection, self.already_exists);
        } else {
            *response.status_mut() = rejection.status();
        }
        let headers = response.headers_mut();
        // Overrides the rejection's own value: a cache would send the rejection to clients that are
        // within their limits.
        headers.insert(header::CACHE_CONTROL, NO_STORE);
        if let Some(secs) = rejection.retry_after_secs() {
            headers.insert(header::RETRY_AFTER, number(secs));
        }
        if let Some(more) = rejection.headers() {
            for name in more.keys() {
                // Headers of the protocol and those set above take precedence.
                if headers.contains_key(name) {
                    continue;
                }
                for value in more.get_all(name) {
                    // The map is full at 32768 values; further ones are omitted.
                    let _ = headers.try_append(name, value.clone());
                }
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_written_in_decimal() {
        for expected in (0..1000).chain([u64::MAX]) {
            assert_eq!(number(expected), expected.to_string().as_str());
        }
    }
}
