//! The status codes that a policy may name.

use super::PolicyError;
use super::decode::DocumentNode;
use super::suggest::hint;

const NAMES: &[(&str, i32)] = &[
    ("Empty", 0),
    ("Continue", 100),
    ("OK", 200),
    ("Created", 201),
    ("Accepted", 202),
    ("NonAuthoritativeInformation", 203),
    ("NoContent", 204),
    ("ResetContent", 205),
    ("PartialContent", 206),
    ("MultiStatus", 207),
    ("AlreadyReported", 208),
    ("IMUsed", 226),
    ("MultipleChoices", 300),
    ("MovedPermanently", 301),
    ("Found", 302),
    ("SeeOther", 303),
    ("NotModified", 304),
    ("UseProxy", 305),
    ("TemporaryRedirect", 307),
    ("PermanentRedirect", 308),
    ("BadRequest", 400),
    ("Unauthorized", 401),
    ("PaymentRequired", 402),
    ("Forbidden", 403),
    ("NotFound", 404),
    ("MethodNotAllowed", 405),
    ("NotAcceptable", 406),
    ("ProxyAuthenticationRequired", 407),
    ("RequestTimeout", 408),
    ("Conflict", 409),
    ("Gone", 410),
    ("LengthRequired", 411),
    ("PreconditionFailed", 412),
    ("PayloadTooLarge", 413),
    ("URITooLong", 414),
    ("UnsupportedMediaType", 415),
    ("RangeNotSatisfiable", 416),
    ("ExpectationFailed", 417),
    ("MisdirectedRequest", 421),
    ("UnprocessableEntity", 422),
    ("Locked", 423),
    ("FailedDependency", 424),
    ("UpgradeRequired", 426),
    ("PreconditionRequired", 428),
    ("TooManyRequests", 429),
    ("RequestHeaderFieldsTooLarge", 431),
    ("InternalServerError", 500),
    ("NotImplemented", 501),
    ("BadGateway", 502),
    ("ServiceUnavailable", 503),
    ("GatewayTimeout", 504),
    ("HTTPVersionNotSupported", 505),
    ("VariantAlsoNegotiates", 506),
    ("InsufficientStorage", 507),
    ("LoopDetected", 508),
    ("NotExtended", 510),
    ("NetworkAuthenticationRequired", 511),
];

/// Reads a status code: its exact name or, in a policy, its number, which need not have a name.
///
/// The Agent silently reads any other text as no code. A misspelt name is refused here instead.
pub(super) fn decode(node: &DocumentNode<'_>) -> Result<i32, PolicyError> {
    if let Some(number) = node.plain_number() {
        if node.context.strict {
            return Err(node.error("values files name the status code, such as `TooManyRequests`"));
        }
        if number.fract() != 0.0 || number.abs() > f64::from(i32::MAX) {
            return Err(node.error("a status code is a whole number"));
        }
        return Ok(number as i32);
    }
    let text = node.text()?;
    if let Some((_, code)) = NAMES.iter().find(|(name, _)| *name == text) {
        return Ok(*code);
    }
    let quoted = text.parse().is_ok_and(|code: i32| code.to_string() == text);
    let help = if quoted {
        format!("; write the number without quotes: {text}")
    } else {
        hint(text, NAMES.iter().map(|(name, _)| *name))
    };
    let shown = super::yaml::shortened(text);
    Err(node.error(format!("`{shown}` is not the name of a status code{help}")))
}

/// Returns the code of a name, for comparison in tests.
#[cfg(test)]
pub(super) fn code_of_name(name: &str) -> Option<i32> {
    let found = NAMES.iter().find(|(known, _)| *known == name);
    found.map(|(_, code)| *code)
}
