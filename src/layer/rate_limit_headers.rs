//! Writes quotas to the header fields `RateLimit-Policy` and `RateLimit` of
//! draft-ietf-httpapi-ratelimit-headers-11.

use std::fmt::Write as _;
use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use crate::flow::Quota;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The largest integer of Structured Fields.
const MAX_INTEGER: u64 = 999_999_999_999_999;

/// Appends the quotas of a flow to the headers of its response. `rejected` states that the flow was
/// rejected.
///
/// Existing fields are kept: they are lists, and each quota applies.
pub(super) fn append(headers: &mut HeaderMap, quotas: &[Quota], rejected: bool) {
    let mut policies = String::new();
    let mut limits = String::new();
    // Writing to a String does not fail.
    for quota in quotas {
        if let Some(limit) = quota.limit {
            push_name(&mut policies, quota);
            let _ = write!(policies, ";q={}", limit.min(MAX_INTEGER));
            if let Some(window) = quota.window {
                let _ = write!(policies, ";w={}", seconds(window));
            }
        }
        push_name(&mut limits, quota);
        let _ = write!(limits, ";r={}", quota.remaining.min(MAX_INTEGER));
        // After a rejection, a bucket that accepted the flow does not determine the wait:
        // `retry-after` may be earlier than its reset.
        if let Some(reset) = quota.reset.filter(|_| quota.rejected == rejected) {
            let _ = write!(limits, ";t={}", seconds(reset));
        }
    }
    for (field, list) in [(POLICY, policies), (LIMIT, limits)] {
        if !list.is_empty()
            && let Ok(list) = HeaderValue::try_from(list)
        {
            headers.append(field, list);
        }
    }
}

/// Appends the start of a list item: the name of the component as a string, in ASCII.
fn push_name(list: &mut String, quota: &Quota) {
    list.push_str(if list.is_empty() { "\"" } else { ", \"" });
    for part in [&quota.policy_name, "/", &quota.component_id] {
        for char in part.chars() {
            match char {
                '"' | '\\' => list.extend(['\\', char]),
                ' '..='~' => list.push(char),
                _ => list.push('_'),
            }
        }
    }
    list.push('"');
}

/// Returns whole seconds, rounded up and at least 1.
fn seconds(time: Duration) -> u64 {
    let round_up = u64::from(time.subsec_nanos() > 0);
    time.as_secs()
        .saturating_add(round_up)
        .clamp(1, MAX_INTEGER)
}
