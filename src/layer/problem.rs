//! Problem details (`application/problem+json`) as responses to rejected requests.

use std::fmt::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};

use super::grpc;
use super::head::RequestHead;
use super::reject::{DefaultReject, OnReject};
use super::replacement_body::{Polled, ReplacementBody};
use crate::flow::{RejectReason, Rejection};

const QUOTA: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
const CAPACITY: &str = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";

/// A reject hook that responds like [`DefaultReject`], with a body of problem details (RFC 9457).
///
/// Set by [`ApertureLayer::problem_details`](crate::ApertureLayer::problem_details). The body is
/// JSON:
///
/// | member | value |
/// |---|---|
/// | `type` | `https://iana.org/assignments/http-problem-types#quota-exceeded` if a limiter rejected with 429, `...#temporary-reduced-capacity` if a scheduler rejected with 503, both from draft-ietf-httpapi-ratelimit-headers-11; otherwise `about:blank` |
/// | `title` | the title of the type, or the reason phrase of the status |
/// | `status` | the status of the response |
/// | `detail` | the reason in words |
/// | `reason` | the reason as [`RejectReason::as_str`] |
/// | `control_point` | the control point; note that clients see it |
/// | `retry_after` | the seconds of `retry-after`; omitted if the wait is unknown |
///
/// A HEAD request gets the same head without a body. gRPC clients get a gRPC response instead.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower_aperture::layer::{OnReject, ProblemDetails, RequestHead};
/// use tower_aperture::{Denial, RejectReason, Rejection};
///
/// let rejection = Rejection::new("checkout", Denial::new(RejectReason::NotSampled));
/// let request = http::Request::new(());
/// let head = RequestHead::new(&request);
/// let problem = ProblemDetails::new();
/// let response = OnReject::<Full<Bytes>>::on_reject(&problem, &rejection, head);
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// assert_eq!(
///     response.body().text(),
///     r#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"rejected: not sampled","reason":"not_sampled","control_point":"checkout"}"#,
/// );
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ProblemDetails {
    head: DefaultReject,
}

impl ProblemDetails {
    /// Creates a hook that adds bodies to the responses of [`DefaultReject::new`].
    #[must_use]
    pub const fn new() -> Self {
        Self::over(DefaultReject::new())
    }

    /// Creates a hook that adds bodies to the responses of `head`.
    #[must_use]
    pub const fn over(head: DefaultReject) -> Self {
        Self { head }
    }
}

impl<B> OnReject<B> for ProblemDetails
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Body = ProblemBody;

    fn on_reject(&self, rejection: &Rejection, head: RequestHead<'_>) -> Response<ProblemBody> {
        let mut response =
            OnReject::<B>::on_reject(&self.head, rejection, head).map(|_| ProblemBody::default());
        let status = response.status();
        if grpc::content_type(head).is_some() || has_no_body(status) {
            return response;
        }
        let text = to_json(rejection, status);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        if head.method() != Method::HEAD {
            response.body_mut().0 = text;
        }
        response
    }
}

/// Returns true if HTTP forbids a body with the status.
fn has_no_body(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    )
}

fn to_json(rejection: &Rejection, status: StatusCode) -> String {
    let reason = rejection.reason();
    let (about, title) = match (reason, status) {
        (RejectReason::RateLimited, StatusCode::TOO_MANY_REQUESTS) => (QUOTA, "Quota Exceeded"),
        (RejectReason::NoTokens, StatusCode::SERVICE_UNAVAILABLE) => {
            (CAPACITY, "Temporary Reduced Capacity")
        }
        _ => (
            "about:blank",
            status.canonical_reason().unwrap_or("Rejected"),
        ),
    };
    let mut text = String::new();
    // Writing to a String does not fail. Only the control point may need escapes.
    let _ = write!(
        text,
        r#"{{"type":"{about}","title":"{title}","status":{},"detail":"{}","reason":"{}","control_point":"{}""#,
        status.as_u16(),
        grpc::message(reason),
        reason.as_str(),
        JsonEscaped(rejection.control_point()),
    );
    if let Some(secs) = rejection.retry_after_secs() {
        let _ = write!(text, r#","retry_after":{secs}"#);
    }
    text.push('}');
    text
}

/// Formats a text as the inside of a JSON string.
struct JsonEscaped<'a>(&'a str);

impl fmt::Display for JsonEscaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '"' | '\\' => write!(f, "\\{char}")?,
                '\0'..='\x1f' => write!(f, "\\u{:04x}", u32::from(char))?,
                _ => f.write_char(char)?,
            }
        }
        Ok(())
    }
}

/// The body of [`ProblemDetails`]: JSON, or empty. See there for an example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProblemBody(String);

impl ProblemBody {
    /// Returns the JSON; empty if the response has no body.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// Replaces any body whose data converts from [`Bytes`]. It never fails, so no error has to
/// convert.
impl<B> ReplacementBody<B> for ProblemBody
where
    B: Body,
    B::Data: From<Bytes>,
{
    fn poll_replacement(self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled<B> {
        let text = std::mem::take(&mut self.get_mut().0);
        let frame = (!text.is_empty()).then(|| Frame::data(Bytes::from(text).into()));
        Poll::Ready(frame.map(Ok))
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    fn hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}
