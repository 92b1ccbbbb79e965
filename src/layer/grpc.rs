//! Rejections in the form of gRPC, and which requests get it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::head::RequestHead;
use crate::flow::{RejectReason, Rejection};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// A name longer than this is not told: heads have little room.
const LONGEST_NAME: usize = 256;
/// Seconds that `google.protobuf.Duration` may have: ten thousand years.
const LONGEST_WAIT: u64 = 315_576_000_000;

/// Fills in the head of a refusal, which is all there is of it.
pub(super) fn refuse(
    headers: &mut HeaderMap,
    content_type: HeaderValue,
    rejection: &Rejection,
    already_exists: bool,
) {
    let code = match rejection.status() {
        StatusCode::CONFLICT if already_exists => Code::ALREADY_EXISTS,
        status => code(status),
    };
    let message = message(rejection.reason());
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(STATUS, HeaderValue::from(code.0));
    headers.insert(MESSAGE, HeaderValue::from_static(message));
    if let Some(wait) = rejection.retry_after() {
        let millis = wait.as_nanos().div_ceil(1_000_000);
        // Clients read a signed 64-bit number.
        let millis = i64::try_from(millis).unwrap_or(i64::MAX);
        headers.insert(PUSHBACK, HeaderValue::from(millis));
    }
    if let Some(details) = details(code, message, rejection) {
        headers.insert(DETAILS, details);
    }
}

/// Returns the content type of the response to a gRPC request; `None` if the request is not gRPC.
///
/// A gRPC request is a POST with a gRPC media type. Anything else gets a response that every HTTP
/// cache and client understands.
pub(super) fn content_type(head: RequestHead<'_>) -> Option<HeaderValue> {
    if *head.method() != Method::POST {
        return None;
    }
    let asked = head.headers().get(header::CONTENT_TYPE)?;
    Some(match media_type(asked.as_bytes())? {
        Transport::Http2 => HeaderValue::from_static("application/grpc"),
        // Clients of gRPC-Web want their own type back. They read the status from the head too.
        Transport::Web => asked.clone(),
    })
}

/// Returns true if the content type is one of gRPC, whatever the method.
pub(super) fn has_media_type(headers: &HeaderMap) -> bool {
    let asked = headers.get(header::CONTENT_TYPE);
    asked.is_some_and(|asked| media_type(asked.as_bytes()).is_some())
}

/// The two kinds of gRPC.
enum Transport {
    Http2,
    Web,
}

/// Reads `application/grpc`, `application/grpc-web` and `application/grpc-web-text`, each with or
/// without a message format such as `+proto`, and parameters. Case does not matter.
fn media_type(value: &[u8]) -> Option<Transport> {
    const GRPC: &[u8] = b"application/grpc";
    let without = |text: &[u8], prefix: &[u8]| {
        let (start, _) = text.split_at_checked(prefix.len())?;
        start.eq_ignore_ascii_case(prefix).then_some(prefix.len())
    };
    let mut at = without(value, GRPC)?;
    let mut transport = Transport::Http2;
    if let Some(length) = without(&value[at..], b"-web") {
        transport = Transport::Web;
        at += length;
        at += without(&value[at..], b"-text").unwrap_or(0);
    }
    matches!(value[at..], [] | [b'+' | b';' | b' ' | b'\t', ..]).then_some(transport)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Code(u16);

impl Code {
    const UNKNOWN: Self = Self(2);
    const INVALID_ARGUMENT: Self = Self(3);
    const DEADLINE_EXCEEDED: Self = Self(4);
    const NOT_FOUND: Self = Self(5);
    const ALREADY_EXISTS: Self = Self(6);
    const PERMISSION_DENIED: Self = Self(7);
    const RESOURCE_EXHAUSTED: Self = Self(8);
    const FAILED_PRECONDITION: Self = Self(9);
    const ABORTED: Self = Self(10);
    const UNIMPLEMENTED: Self = Self(12);
    const INTERNAL: Self = Self(13);
    const UNAVAILABLE: Self = Self(14);
    const UNAUTHENTICATED: Self = Self(16);
}

/// The gRPC code that says to a client what an HTTP status does.
///
/// A refusal is never code 0: a client would take it for an answer.
fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::INVALID_ARGUMENT,
        401 => Code::UNAUTHENTICATED,
        403 => Code::PERMISSION_DENIED,
        404 => Code::NOT_FOUND,
        408 | 504 => Code::DEADLINE_EXCEEDED,
        409 => Code::ABORTED,
        412 => Code::FAILED_PRECONDITION,
        413 | 429 => Code::RESOURCE_EXHAUSTED,
        500 => Code::INTERNAL,
        501 => Code::UNIMPLEMENTED,
        502 | 503 => Code::UNAVAILABLE,
        _ => Code::UNKNOWN,
    }
}

/// The reason in words. ASCII without `%`, `"` and `\`, so no protocol has to encode it.
pub(super) const fn message(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::RateLimited => "rejected: rate limited",
        RejectReason::NoTokens => "rejected: no capacity in time",
        RejectReason::NotSampled => "rejected: not sampled",
        RejectReason::NoMatchingRamp => "rejected: no ramp lets it in",
        RejectReason::Unreachable => "rejected: flow control is unreachable",
        RejectReason::MissingLabel => "rejected: a required label is missing",
        RejectReason::BodyTooLarge => "rejected: the body is too large",
        RejectReason::DeadlineExceeded => "rejected: the caller's deadline has passed",
        RejectReason::Unknown => "rejected by flow control",
    }
}

/// A `google.rpc.Status` with what is known beyond code and message, `None` where that is nothing.
///
/// Written by hand, because the layer knows no gRPC: five messages of two fields each.
fn details(code: Code, message: &str, rejection: &Rejection) -> Option<HeaderValue> {
    let mut status = Vec::new();
    put_number(&mut status, 1, u64::from(code.0));
    put_bytes(&mut status, 2, message.as_bytes());
    let bare = status.len();
    if let Some(wait) = rejection.retry_after() {
        let mut info = Vec::new();
        put_bytes(&mut info, 1, &duration(wait));
        let info = any("type.googleapis.com/google.rpc.RetryInfo", &info);
        put_bytes(&mut status, 3, &info);
    }
    let quota = matches!(
        rejection.reason(),
        RejectReason::RateLimited | RejectReason::NoTokens
    );
    let name = rejection.control_point();
    if quota && name.len() <= LONGEST_NAME {
        // Never the value of a label: it may say who someone is.
        let mut violation = Vec::new();
        put_bytes(
            &mut violation,
            1,
            format!("control_point:{name}").as_bytes(),
        );
        put_bytes(&mut violation, 2, rejection.reason().as_str().as_bytes());
        let mut failure = Vec::new();
        put_bytes(&mut failure, 1, &violation);
        let failure = any("type.googleapis.com/google.rpc.QuotaFailure", &failure);
        put_bytes(&mut status, 3, &failure);
    }
    if status.len() == bare {
        return None;
    }
    HeaderValue::try_from(STANDARD_NO_PAD.encode(&status)).ok()
}

/// A `google.protobuf.Any`.
fn any(type_url: &str, value: &[u8]) -> Vec<u8> {
    let mut any = Vec::new();
    put_bytes(&mut any, 1, type_url.as_bytes());
    put_bytes(&mut any, 2, value);
    any
}

/// A `google.protobuf.Duration`.
fn duration(wait: Duration) -> Vec<u8> {
    let mut duration = Vec::new();
    put_number(&mut duration, 1, wait.as_secs().min(LONGEST_WAIT));
    if wait.as_secs() < LONGEST_WAIT {
        put_number(&mut duration, 2, u64::from(wait.subsec_nanos()));
    }
    duration
}

/// A field of a number; zero is told by its absence.
fn put_number(to: &mut Vec<u8>, field: u8, number: u64) {
    if number != 0 {
        to.push(field << 3);
        put_varint(to, number);
    }
}

fn put_bytes(to: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    to.push(field << 3 | 2);
    put_varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

fn put_varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}
