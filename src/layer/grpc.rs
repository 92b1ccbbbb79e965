//! Refusals that gRPC clients understand.

use http::{HeaderMap, HeaderValue, StatusCode, header};

/// The content type of the answer to a gRPC request, `None` for any other request.
pub(super) fn content_type(headers: &HeaderMap) -> Option<HeaderValue> {
    const GRPC: &[u8] = b"application/grpc";
    const WEB: &[u8] = b"application/grpc-web";
    let asked = headers.get(header::CONTENT_TYPE)?;
    let prefixed = |prefix: &[u8]| {
        let rest = asked.as_bytes().split_at_checked(prefix.len());
        rest.filter(|(start, _)| start.eq_ignore_ascii_case(prefix))
            .is_some_and(|(_, rest)| matches!(rest, [] | [b'+' | b';' | b' ', ..]))
    };
    if prefixed(GRPC) {
        Some(HeaderValue::from_static("application/grpc"))
    } else if prefixed(WEB) {
        // Its clients want their own type back; they too take a status from the head.
        Some(asked.clone())
    } else {
        None
    }
}

/// The gRPC code that says to a client what an HTTP status does.
///
/// A refusal is never code 0: a client would take it for an answer.
pub(super) fn code(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "3",        // InvalidArgument
        401 => "16",       // Unauthenticated
        403 => "7",        // PermissionDenied
        404 => "5",        // NotFound
        408 | 504 => "4",  // DeadlineExceeded
        409 => "10",       // Aborted
        412 => "9",        // FailedPrecondition
        429 => "8",        // ResourceExhausted
        500 => "13",       // Internal
        501 => "12",       // Unimplemented
        502 | 503 => "14", // Unavailable
        _ => "2",          // Unknown
    }
}
