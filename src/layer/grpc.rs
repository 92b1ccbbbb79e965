//! Rejections as gRPC responses, and the requests that get them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::head::RequestHead;
use super::reject::number;
use crate::flow::{RejectReason, Rejection};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// The longest control point, in bytes, that the error details contain: response heads are limited
/// in size.
const LONGEST_CONTROL_POINT: usize = 256;
/// The largest number of seconds in a `google.protobuf.Duration`: ten thousand years.
const LONGEST_WAIT_SECS: u64 = 315_576_000_000;

/// Writes the headers of a rejection. The response has no body and no trailers.
pub(super) fn write_rejection(
    headers: &mut HeaderMap,
    content_type: HeaderValue,
    rejection: &Rejection,
    already_exists: bool,
) {
    let code = match rejection.status() {
        StatusCode::CONFLICT if already_exists => GrpcCode::ALREADY_EXISTS,
        status => code(status),
    };
    let message = message(rejection.reason());
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(STATUS, number(code.0.into()));
    headers.insert(MESSAGE, HeaderValue::from_static(message));
    if let Some(wait) = rejection.retry_after() {
        let millis = wait.as_nanos().div_ceil(1_000_000);
        // Clients parse a signed 64-bit number.
        let millis = i64::try_from(millis).unwrap_or(i64::MAX);
        headers.insert(PUSHBACK, HeaderValue::from(millis));
    }
    if let Some(details) = details(code, message, rejection) {
        headers.insert(DETAILS, details);
    }
}

/// Returns the content type of the response to a gRPC request; `None` if the request is not gRPC.
///
/// A gRPC request is a POST with a gRPC media type. All other requests get a plain HTTP response,
/// which every HTTP cache and client understands.
pub(super) fn content_type(head: RequestHead<'_>) -> Option<HeaderValue> {
    if *head.method() != Method::POST {
        return None;
    }
    let requested = head.headers().get(header::CONTENT_TYPE)?;
    Some(match media_type(requested.as_bytes())? {
        GrpcTransport::Http2 => HeaderValue::from_static("application/grpc"),
        // gRPC-Web clients expect the content type of their request. They read the status from the
        // head too.
        GrpcTransport::Web => requested.clone(),
    })
}

/// Returns true if the content type is a gRPC media type, whatever the method.
pub(super) fn has_media_type(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| media_type(value.as_bytes()).is_some())
}

/// The transport of a gRPC request.
enum GrpcTransport {
    Http2,
    Web,
}

/// Parses `application/grpc`, `application/grpc-web` and `application/grpc-web-text`, each with an
/// optional message format such as `+proto` and optional parameters. Case-insensitive.
fn media_type(value: &[u8]) -> Option<GrpcTransport> {
    const GRPC: &[u8] = b"application/grpc";
    let prefix_len = |text: &[u8], prefix: &[u8]| {
        let (start, _) = text.split_at_checked(prefix.len())?;
        start.eq_ignore_ascii_case(prefix).then_some(prefix.len())
    };
    let mut at = prefix_len(value, GRPC)?;
    let mut transport = GrpcTransport::Http2;
    if let Some(length) = prefix_len(&value[at..], b"-web") {
        transport = GrpcTransport::Web;
        at += length;
        at += prefix_len(&value[at..], b"-text").unwrap_or(0);
    }
    matches!(value[at..], [] | [b'+' | b';' | b' ' | b'\t', ..]).then_some(transport)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GrpcCode(u16);

impl GrpcCode {
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

/// Returns the gRPC code for the HTTP status of a rejection.
///
/// Never 0: a client would treat the rejection as success.
fn code(status: StatusCode) -> GrpcCode {
    match status.as_u16() {
        400 => GrpcCode::INVALID_ARGUMENT,
        401 => GrpcCode::UNAUTHENTICATED,
        403 => GrpcCode::PERMISSION_DENIED,
        404 => GrpcCode::NOT_FOUND,
        408 | 504 => GrpcCode::DEADLINE_EXCEEDED,
        409 => GrpcCode::ABORTED,
        412 => GrpcCode::FAILED_PRECONDITION,
        413 | 429 => GrpcCode::RESOURCE_EXHAUSTED,
        500 => GrpcCode::INTERNAL,
        501 => GrpcCode::UNIMPLEMENTED,
        502 | 503 => GrpcCode::UNAVAILABLE,
        _ => GrpcCode::UNKNOWN,
    }
}

/// Returns the message for a reason. It is ASCII without `%`, `"` and `\`, so gRPC headers and JSON
/// need no escapes.
pub(super) const fn message(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::RateLimited => "rejected: rate limited",
        RejectReason::NoTokens => "rejected: no capacity in time",
        RejectReason::NotSampled => "rejected: not sampled",
        RejectReason::NoMatchingRamp => "rejected: no matching load ramp",
        RejectReason::Unreachable => "rejected: flow control is unreachable",
        RejectReason::MissingLabel => "rejected: a required label is missing",
        RejectReason::BodyTooLarge => "rejected: the body is too large",
        RejectReason::DeadlineExceeded => "rejected: the caller's deadline has passed",
        _ => "rejected by flow control",
    }
}

/// Encodes a `google.rpc.Status` with error details. Returns `None` if no details are known beyond
/// code and message.
///
/// Encoded by hand, because the layer does not depend on a gRPC library: five messages of two
/// fields each.
fn details(code: GrpcCode, message: &str, rejection: &Rejection) -> Option<HeaderValue> {
    let mut status = Vec::new();
    put_number(&mut status, 1, u64::from(code.0));
    put_bytes(&mut status, 2, message.as_bytes());
    let len_without_details = status.len();
    if let Some(wait) = rejection.retry_after() {
        let mut info = Vec::new();
        put_bytes(&mut info, 1, &duration(wait));
        let info = any("type.googleapis.com/google.rpc.RetryInfo", &info);
        put_bytes(&mut status, 3, &info);
    }
    let is_quota = matches!(
        rejection.reason(),
        RejectReason::RateLimited | RejectReason::NoTokens
    );
    let name = rejection.control_point();
    if is_quota && name.len() <= LONGEST_CONTROL_POINT {
        // Never the value of a label, because it may identify a person.
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
    if status.len() == len_without_details {
        return None;
    }
    HeaderValue::try_from(STANDARD_NO_PAD.encode(&status)).ok()
}

/// Encodes a `google.protobuf.Any`.
fn any(type_url: &str, value: &[u8]) -> Vec<u8> {
    let mut any = Vec::new();
    put_bytes(&mut any, 1, type_url.as_bytes());
    put_bytes(&mut any, 2, value);
    any
}

/// Encodes a `google.protobuf.Duration`.
fn duration(wait: Duration) -> Vec<u8> {
    let mut duration = Vec::new();
    put_number(&mut duration, 1, wait.as_secs().min(LONGEST_WAIT_SECS));
    if wait.as_secs() < LONGEST_WAIT_SECS {
        put_number(&mut duration, 2, u64::from(wait.subsec_nanos()));
    }
    duration
}

/// Encodes a number field. Zero, the default, is omitted.
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
