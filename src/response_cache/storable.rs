//! Decides whether a shared cache may store a response, and for how long (RFC 9111, sections 3 and
//! 4.2).

use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::directives::{Directives, Seconds, pragma_no_cache};

/// The parts of the request and of the layer's settings that decide whether a response is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct StorageContext<'a> {
    /// When the request began.
    pub(super) requested_at: SystemTime,
    /// Whether the request had an `authorization` header.
    pub(super) authorized: bool,
    /// The request fields that are part of the key.
    pub(super) vary: &'a [HeaderName],
    /// The longest time that the user allows for storing responses.
    pub(super) ttl: Duration,
}

/// How old a response is and how long it stays fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Freshness {
    /// The age of the response on arrival (section 4.2.3).
    pub(super) age: Duration,
    /// How much longer the response may be used.
    pub(super) remaining: Duration,
}

/// Returns the freshness of a response, `None` if it must not be stored or would never be used.
pub(super) fn freshness(
    context: StorageContext<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    now: SystemTime,
) -> Option<Freshness> {
    let directives = Directives::from_headers(headers);
    // A malformed field may contain any of these directives. The layer never revalidates, so a
    // response with `no-cache` could not be used.
    if directives.malformed || directives.no_store || directives.private || directives.no_cache {
        return None;
    }
    // `pragma` is not specified for responses, but servers send it to prevent caching.
    if pragma_no_cache(headers) {
        return None;
    }
    let allows_authorized =
        directives.public || directives.must_revalidate || directives.s_maxage != Seconds::Absent;
    if context.authorized && !allows_authorized {
        return None;
    }
    // `set-cookie` belongs to one client, `content-range` marks a partial response, and trailers
    // are not stored.
    const NEVER: [HeaderName; 3] = [header::SET_COOKIE, header::CONTENT_RANGE, header::TRAILER];
    if NEVER.iter().any(|name| headers.contains_key(name)) || !is_keyed(headers, context.vary) {
        return None;
    }

    let date = date_field(headers, header::DATE)
        .unwrap_or(Ok(now))
        .unwrap_or(now);
    let age = age(context.requested_at, date, headers, now);
    let lifetime = match (directives.s_maxage, directives.max_age) {
        (Seconds::Given(seconds), _) | (Seconds::Absent, Seconds::Given(seconds)) => {
            Some(Duration::from_secs(seconds))
        }
        (Seconds::Invalid, _) | (Seconds::Absent, Seconds::Invalid) => return None,
        // An invalid date counts as past (section 5.3).
        (Seconds::Absent, Seconds::Absent) => match date_field(headers, header::EXPIRES) {
            None => None,
            Some(expires) => Some(expires.ok()?.duration_since(date).ok()?),
        },
    };
    let remaining = match lifetime {
        Some(lifetime) if is_storable_status(status) => lifetime.checked_sub(age)?.min(context.ttl),
        // The layer's `ttl` is the heuristic of section 4.2.2, but only for status 200: other
        // responses need explicit freshness.
        None if status == StatusCode::OK => context.ttl,
        _ => return None,
    };
    // Agents count times to live in milliseconds.
    (remaining >= Duration::from_millis(1)).then_some(Freshness { age, remaining })
}

/// Returns true for a status of a final, complete response that is the same for every client.
const fn is_storable_status(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 300 | 301 | 308 | 404 | 410
    )
}

/// Returns true if every request field that `vary` names is part of the key. `vary: *` names things
/// outside of the fields, which are never part of the key.
fn is_keyed(headers: &HeaderMap, vary: &[HeaderName]) -> bool {
    headers.get_all(header::VARY).iter().all(|value| {
        let mut names = value.as_bytes().split(|byte| *byte == b',');
        names.all(|name| {
            let name = name.trim_ascii();
            let known = |known: &HeaderName| name.eq_ignore_ascii_case(known.as_str().as_bytes());
            name.is_empty() || (name != b"*" && vary.iter().any(known))
        })
    })
}

/// Returns the age of a response (section 4.2.3). Assumes the worst case, that the whole duration
/// of the request was spent on the way of the response.
fn age(
    requested_at: SystemTime,
    date: SystemTime,
    headers: &HeaderMap,
    now: SystemTime,
) -> Duration {
    let apparent = now.duration_since(date).unwrap_or_default();
    let delay = now.duration_since(requested_at).unwrap_or_default();
    let Some(reported) = headers.get(header::AGE).and_then(seconds) else {
        return apparent;
    };
    apparent.max(reported.saturating_add(delay))
}

/// Parses the value of `age` (section 5.1): the first member of a list counts, and a value that is
/// not a number is ignored.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    let first = value.as_bytes().split(|byte| *byte == b',').next()?;
    let digits = str::from_utf8(first.trim_ascii()).ok()?;
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    // A number that overflows counts as infinite (section 1.2.2).
    Some(Duration::from_secs(digits.parse().unwrap_or(u64::MAX)))
}

/// Returns the date in a field, `Err` if it is repeated or not a date, `None` if it is absent.
fn date_field(headers: &HeaderMap, name: HeaderName) -> Option<Result<SystemTime, ()>> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return Some(Err(()));
    }
    let text = value.to_str().map_err(drop);
    Some(text.and_then(|text| httpdate::parse_http_date(text).map_err(drop)))
}

#[cfg(test)]
mod tests;
