//! Writes quotas to the header fields `RateLimit-Policy` and `RateLimit` of
//! draft-ietf-httpapi-ratelimit-headers-11.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use crate::flow::Quota;

static POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The largest integer of Structured Fields.
const MAX_INTEGER: u64 = 999_999_999_999_999;
/// The bytes of a list item besides the name: separators, and two parameters with their numbers.
const ITEM: usize = 4 + 2 * (3 + 15);

/// Appends the quotas of a flow to the headers of its response. `rejected` states that the flow was
/// rejected.
///
/// Existing fields are kept: they are lists, and each quota applies.
pub(super) fn append(headers: &mut HeaderMap, quotas: &[Quota], rejected: bool) {
    let item = |quota: &Quota| quota.policy_name.len() + quota.component_id.len() + ITEM;
    let mut text = BytesMut::with_capacity(2 * quotas.iter().map(item).sum::<usize>());
    for quota in quotas {
        if let Some(limit) = quota.limit {
            push_name(&mut text, quota);
            push_number(&mut text, b";q=", limit.min(MAX_INTEGER));
            if let Some(window) = quota.window {
                push_number(&mut text, b";w=", seconds(window));
            }
        }
    }
    append_field(headers, &POLICY, text.split());
    for quota in quotas {
        push_name(&mut text, quota);
        push_number(&mut text, b";r=", quota.remaining.min(MAX_INTEGER));
        // After a rejection, a bucket that accepted the flow does not determine the wait:
        // `retry-after` may be earlier than its reset.
        if let Some(reset) = quota.reset.filter(|_| quota.rejected == rejected) {
            push_number(&mut text, b";t=", seconds(reset));
        }
    }
    append_field(headers, &LIMIT, text);
}

fn append_field(headers: &mut HeaderMap, name: &'static HeaderName, list: BytesMut) {
    if !list.is_empty()
        && let Ok(list) = HeaderValue::from_maybe_shared(list.freeze())
    {
        // The map is full at 32768 values; the field is then left out.
        let _ = headers.try_append(name, list);
    }
}

/// Appends the start of a list item: the name of the component as a string, in ASCII.
fn push_name(list: &mut BytesMut, quota: &Quota) {
    list.extend_from_slice(if list.is_empty() { b"\"" } else { b", \"" });
    push_text(list, &quota.policy_name);
    list.put_u8(b'/');
    push_text(list, &quota.component_id);
    list.put_u8(b'"');
}

fn push_text(list: &mut BytesMut, text: &str) {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        return list.extend_from_slice(text.as_bytes());
    }
    for char in text.chars() {
        match char {
            '"' | '\\' => list.extend_from_slice(&[b'\\', char as u8]),
            ' '..='~' => list.put_u8(char as u8),
            _ => list.put_u8(b'_'),
        }
    }
}

fn push_number(list: &mut BytesMut, key: &[u8], number: u64) {
    list.extend_from_slice(key);
    list.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Returns whole seconds, rounded up and at least 1.
fn seconds(time: Duration) -> u64 {
    let round_up = u64::from(time.subsec_nanos() > 0);
    time.as_secs()
        .saturating_add(round_up)
        .clamp(1, MAX_INTEGER)
}
