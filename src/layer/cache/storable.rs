//! Whether a shared cache may keep a response, and for how long (RFC 9111, sections 3 and 4.2).

use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::directives::{Directives, Seconds, pragma_no_cache};

/// The request, and the settings of the layer, as far as they matter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// When it began.
    pub(super) at: SystemTime,
    /// Whether it had `authorization`.
    pub(super) authorized: bool,
    /// The fields that the key holds.
    pub(super) vary: &'a [HeaderName],
    /// How long the user wants responses to be kept.
    pub(super) ttl: Duration,
}

/// How long a response is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fresh {
    /// How old it was when it came (section 4.2.3).
    pub(super) age: Duration,
    /// How much longer it may be used.
    pub(super) left: Duration,
}

/// Returns `None` for a response that must not be stored, or that would be of no use.
pub(super) fn fresh(
    asked: Asked<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    now: SystemTime,
) -> Option<Fresh> {
    let said = Directives::of(headers);
    // A field that cannot be read may have said any of these. The layer never validates, so a
    // response that has to be validated is of no use.
    if said.malformed || said.no_store || said.private || said.no_cache {
        return None;
    }
    // Not specified for responses, and meant all the same.
    if pragma_no_cache(headers) {
        return None;
    }
    let leave = said.public || said.must_revalidate || said.s_maxage != Seconds::Absent;
    if asked.authorized && !leave {
        return None;
    }
    // Cookies belong to one client; the others have only a part of the response, or more of it
    // behind the body.
    const NEVER: [HeaderName; 3] = [header::SET_COOKIE, header::CONTENT_RANGE, header::TRAILER];
    if NEVER.iter().any(|name| headers.contains_key(name)) || !is_keyed(headers, asked.vary) {
        return None;
    }

    let date = time(headers, header::DATE)
        .unwrap_or(Ok(now))
        .unwrap_or(now);
    let age = age(asked.at, date, headers, now);
    let lifetime = match (said.s_maxage, said.max_age) {
        (Seconds::Given(seconds), _) | (Seconds::Absent, Seconds::Given(seconds)) => {
            Some(Duration::from_secs(seconds))
        }
        (Seconds::Invalid, _) | (Seconds::Absent, Seconds::Invalid) => return None,
        // A time that makes no sense has passed (section 5.3).
        (Seconds::Absent, Seconds::Absent) => match time(headers, header::EXPIRES) {
            None => None,
            Some(expires) => Some(expires.ok()?.duration_since(date).ok()?),
        },
    };
    let left = match lifetime {
        Some(lifetime) if understood(status) => lifetime.checked_sub(age)?.min(asked.ttl),
        // The layer's time to live is the heuristic of section 4.2.2, but only for a plain 200:
        // other responses have to say themselves that they are worth keeping.
        None if status == StatusCode::OK => asked.ttl,
        _ => return None,
    };
    // Agents count in milliseconds.
    (left >= Duration::from_millis(1)).then_some(Fresh { age, left })
}

/// Whether a status is final, complete, and the same for every client.
const fn understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 300 | 301 | 308 | 404 | 410
    )
}

/// Whether every field that the response depends on is part of the key. `*` stands for what is in
/// no field, and never is.
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

/// Section 4.2.3, in the worst case: the whole time of the request was spent on the way back.
fn age(
    requested_at: SystemTime,
    date: SystemTime,
    headers: &HeaderMap,
    now: SystemTime,
) -> Duration {
    let apparent = now.duration_since(date).unwrap_or_default();
    let delay = now.duration_since(requested_at).unwrap_or_default();
    let Some(told) = headers.get(header::AGE).and_then(seconds) else {
        return apparent;
    };
    apparent.max(told.saturating_add(delay))
}

/// Section 5.1: of a list the first member counts, and a value that is no number is ignored.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    let first = value.as_bytes().split(|byte| *byte == b',').next()?;
    let digits = str::from_utf8(first.trim_ascii()).ok()?;
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    // Too large for a number is as good as for ever (section 1.2.2).
    Some(Duration::from_secs(digits.parse().unwrap_or(u64::MAX)))
}

/// A date, `Err` for one that is none.
fn time(headers: &HeaderMap, name: HeaderName) -> Option<Result<SystemTime, ()>> {
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
