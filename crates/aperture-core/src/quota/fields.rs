//! Writes quotas to the header fields `RateLimit-Policy` and `RateLimit` of
//! draft-ietf-httpapi-ratelimit-headers-11.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::Quota;

static POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The parameters of `RateLimit`.
const REMAINING: &[u8] = b";r=";
const RESET: &[u8] = b";t=";
/// The largest integer of Structured Fields.
const MAX_INTEGER: u64 = 999_999_999_999_999;
/// The bytes of a list item besides the name: separators, and two parameters with their numbers.
const ITEM: usize = 4 + 2 * (3 + 15);

/// Appends the quotas of a flow to the headers of its response. `rejected` states that the flow was
/// rejected.
///
/// Existing fields are kept: they are lists, and each quota applies.
pub fn append(headers: &mut HeaderMap, quotas: &[Quota], rejected: bool) {
    if let [quota] = quotas
        && let Some(texts) = quota.texts.of(quota)
    {
        return append_one(headers, quota, texts, rejected);
    }
    let item = |quota: &Quota| quota.policy_name.len() + quota.component_id.len() + ITEM;
    let mut text = BytesMut::with_capacity(2 * quotas.iter().map(item).sum::<usize>());
    for quota in quotas {
        push_policy(&mut text, quota);
    }
    append_field(headers, &POLICY, text.split());
    for quota in quotas {
        push_name(&mut text, quota);
        push_state(&mut text, quota, rejected);
    }
    append_field(headers, &LIMIT, text);
}

/// Appends the only quota of a flow, of which some texts are known.
fn append_one(headers: &mut HeaderMap, quota: &Quota, texts: &RenderedQuota, rejected: bool) {
    if let Some(policy) = &texts.policy {
        append_value(headers, &POLICY, policy.clone());
    }
    let (mut remaining, mut reset) = (itoa::Buffer::new(), itoa::Buffer::new());
    let remaining = remaining.format(quota.remaining.min(MAX_INTEGER));
    let (key, reset) = match reset_of(quota, rejected) {
        Some(time) => (RESET, reset.format(seconds(time))),
        None => (&b""[..], ""),
    };
    // A buffer of exactly this length becomes a value without another allocation.
    let parts = [
        &*texts.name,
        REMAINING,
        remaining.as_bytes(),
        key,
        reset.as_bytes(),
    ];
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(parts.concat())) {
        append_value(headers, &LIMIT, value);
    }
}

/// The texts of a quota that are the same for each flow of a limiter.
///
/// A limiter renders them once and adds them to its quotas.
#[derive(Debug)]
pub struct RenderedQuota {
    limit: Option<u64>,
    window: Option<Duration>,
    name: Box<[u8]>,
    /// The field `RateLimit-Policy`.
    policy: Option<HeaderValue>,
}

impl RenderedQuota {
    /// Renders the texts of a quota.
    #[must_use]
    pub fn new(quota: &Quota) -> Self {
        let (mut name, mut policy) = (BytesMut::new(), BytesMut::new());
        push_name(&mut name, quota);
        push_policy(&mut policy, quota);
        Self {
            limit: quota.limit,
            window: quota.window,
            name: (*name).into(),
            policy: field_value(policy),
        }
    }
}

/// The rendered texts of a quota, if its limiter has some. Quotas are equal whether or not they have
/// them.
#[derive(Clone, Debug, Default)]
pub struct QuotaTexts(Option<Arc<RenderedQuota>>);

impl QuotaTexts {
    /// Returns the texts if they are those of this quota.
    fn of(&self, quota: &Quota) -> Option<&RenderedQuota> {
        let texts = self.0.as_deref()?;
        (texts.limit == quota.limit && texts.window == quota.window).then_some(texts)
    }
}

impl From<Arc<RenderedQuota>> for QuotaTexts {
    fn from(texts: Arc<RenderedQuota>) -> Self {
        Self(Some(texts))
    }
}

impl PartialEq for QuotaTexts {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for QuotaTexts {}

fn append_field(headers: &mut HeaderMap, name: &'static HeaderName, list: BytesMut) {
    if let Some(list) = field_value(list) {
        append_value(headers, name, list);
    }
}

fn append_value(headers: &mut HeaderMap, name: &'static HeaderName, value: HeaderValue) {
    // The map is full at 32768 values; the field is then left out.
    let _ = headers.try_append(name, value);
}

/// Returns the value of a field; `None` for an empty list.
fn field_value(list: BytesMut) -> Option<HeaderValue> {
    let list = Some(list.freeze()).filter(|list| !list.is_empty())?;
    HeaderValue::from_maybe_shared(list).ok()
}

/// Appends the limit and the window of a quota, if it has a limit.
fn push_policy(list: &mut BytesMut, quota: &Quota) {
    if let Some(limit) = quota.limit {
        push_name(list, quota);
        push_number(list, b";q=", limit.min(MAX_INTEGER));
        if let Some(window) = quota.window {
            push_number(list, b";w=", seconds(window));
        }
    }
}

/// Appends the remaining tokens and the reset of a quota.
fn push_state(list: &mut BytesMut, quota: &Quota, rejected: bool) {
    push_number(list, REMAINING, quota.remaining.min(MAX_INTEGER));
    if let Some(reset) = reset_of(quota, rejected) {
        push_number(list, RESET, seconds(reset));
    }
}

/// Returns the time that the field shows. After a rejection, a bucket that accepted the flow does not
/// determine the wait: `retry-after` may be earlier than its reset.
fn reset_of(quota: &Quota, rejected: bool) -> Option<Duration> {
    quota.reset.filter(|_| quota.rejected == rejected)
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
