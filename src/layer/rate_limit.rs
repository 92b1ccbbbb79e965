//! Quotas as `RateLimit-Policy` and `RateLimit`: draft-ietf-httpapi-ratelimit-headers-11.

use std::fmt::Write as _;
use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use crate::flow::Quota;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The largest integer of Structured Fields.
const LARGEST: u64 = 999_999_999_999_999;

/// Adds the quotas of a flow to its response; `rejected` when it was turned away.
///
/// What others said before stays: the fields are lists, and each quota counts.
pub(super) fn add(headers: &mut HeaderMap, quotas: &[Quota], rejected: bool) {
    let mut policies = String::new();
    let mut limits = String::new();
    // Writing to a String does not fail.
    for quota in quotas {
        if let Some(limit) = quota.limit {
            name(&mut policies, quota);
            let _ = write!(policies, ";q={}", limit.min(LARGEST));
            if let Some(window) = quota.window {
                let _ = write!(policies, ";w={}", seconds(window));
            }
        }
        name(&mut limits, quota);
        let _ = write!(limits, ";r={}", quota.remaining.min(LARGEST));
        // One that let the flow in is not what it has to wait for: `retry-after` may be earlier.
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

/// Begins a member of a list: the limiter's name as a string, which is ASCII.
fn name(list: &mut String, quota: &Quota) {
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

/// Rounded up, and so never zero.
fn seconds(time: Duration) -> u64 {
    let up = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(up).clamp(1, LARGEST)
}
