//! Reads header fields as texts, and decides which of them may become labels.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::layer::error::{LayerError, unwrap_or_panic};
use crate::layer::head::RequestHead;

/// Returns a reader of a header: its values, trimmed and joined by commas. The text is empty if the
/// request has no such header.
///
/// Values are ignored if they are blank, or contain other bytes than visible ASCII and blanks (RFC
/// 9110 section 5.5). Texts in other scripts have to be percent-encoded.
///
/// The text is borrowed unless the header has several values. Beware of headers that clients can
/// set: a client that chooses its label chooses its limit.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use tower_aperture::ApertureLayer;
/// use tower_aperture::layer::header;
///
/// let layer = ApertureLayer::with_control_point(client, header("x-operation"))
///     .label_from("user", header("x-user-id"));
/// # let _ = layer;
/// ```
///
/// # Panics
///
/// If the name is not a valid header name, or if the header holds a secret: `authorization`,
/// `proxy-authorization`, `cookie`, `set-cookie`. [`try_header`] returns an error instead.
#[track_caller]
pub fn header(
    name: impl AsRef<str>,
) -> impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Clone + Send + Sync + 'static {
    label_reader(unwrap_or_panic(allowed_header(name.as_ref())))
}

/// Like [`header()`], for names from a configuration.
///
/// # Errors
///
/// If the name is not a valid header name, or if the header holds a secret.
pub fn try_header(
    name: impl AsRef<str>,
) -> Result<
    impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Clone + Send + Sync + 'static,
    LayerError,
> {
    allowed_header(name.as_ref()).map(label_reader)
}

fn label_reader(
    name: HeaderName,
) -> impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Clone + Send + Sync + 'static {
    move |head: RequestHead<'_>| label_value(head.headers(), &name).unwrap_or_default()
}

/// Returns the header of this name if it may become a label, an error if it holds a secret.
pub(crate) fn allowed_header(name: &str) -> Result<HeaderName, LayerError> {
    // Credentials must not be sent to the systems that decide and monitor policies.
    const SECRET: [HeaderName; 4] = [
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
    ];
    let header = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| LayerError::invalid_header(name.to_owned()))?;
    if SECRET.contains(&header) {
        return Err(LayerError::secret_header(header));
    }
    Ok(header)
}

/// Returns the values of a header that are visible ASCII and not blank, joined by commas. `None` if
/// it has no such value: an empty or unreadable value must not replace a default.
#[inline(always)]
pub(crate) fn label_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let first = headers.get(name)?;
    // The fast path: if the lengths agree, each name has one value.
    if headers.len() == headers.keys_len() {
        return visible_text(first).map(Cow::Borrowed);
    }
    joined_values(headers, name)
}

/// Returns the value of a header like [`label_value`], if no header of the request has several.
#[inline(always)]
pub(super) fn single_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let first = headers.get(name)?;
    match headers.len() == headers.keys_len() {
        true => visible_text(first),
        false => None,
    }
}

#[inline(never)]
fn joined_values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter().filter_map(visible_text);
    let mut all = Cow::Borrowed(values.next()?);
    for value in values {
        let all = all.to_mut();
        all.push(',');
        all.push_str(value);
    }
    Some(all)
}

#[inline(always)]
fn visible_text(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?;
    // Most values have no blanks around them.
    let text = match text.as_bytes() {
        [first, .., last] if *first > b' ' && *last > b' ' => text,
        _ => text.trim_ascii(),
    };
    (!text.is_empty()).then_some(text)
}

/// Returns all values of a header, joined by commas as HTTP joins lists, with U+FFFD in place of
/// bytes that are not UTF-8.
#[inline]
pub(crate) fn joined_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let first = headers.get(name)?;
    // The fast path: if the lengths agree, each name has one value.
    if headers.len() == headers.keys_len() {
        return Some(lossy_text(first));
    }
    let mut values = headers.get_all(name).iter();
    let mut all = lossy_text(values.next()?);
    for value in values {
        let all = all.to_mut();
        all.push(',');
        all.push_str(&lossy_text(value));
    }
    Some(all)
}

#[inline]
fn lossy_text(value: &HeaderValue) -> Cow<'_, str> {
    // Most values are ASCII, which is cheaper to check than UTF-8.
    value
        .to_str()
        .map_or_else(|_| String::from_utf8_lossy(value.as_bytes()), Cow::Borrowed)
}
