use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::flow::headers::first;
use crate::layer::RequestHead;
use crate::layer::error::LayerError;
use crate::layer::layer::unwrap_or_panic;

/// Reads a header: all its values that are text, without blanks around them, joined by commas;
/// empty where the request has none.
///
/// A value that is empty or blank is none, and neither is one that is not text, that is visible
/// ASCII and blanks (RFC 9110 section 5.5): a name in another script has to be percent-encoded.
///
/// Borrows, unless there are several values. Beware of trusting what a client says: a client that
/// may choose its label chooses its limit.
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
/// If this is not the name of a header, or that of a secret: `authorization`,
/// `proxy-authorization`, `cookie`, `set-cookie`; [`try_header`] returns that as an error.
#[track_caller]
pub fn header(
    name: impl AsRef<str>,
) -> impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Clone + Send + Sync + 'static {
    reader(unwrap_or_panic(allowed_header(name.as_ref())))
}

/// Like [`header()`] for names from a configuration.
///
/// # Errors
///
/// If this is not the name of a header, or that of a secret.
pub fn try_header(
    name: impl AsRef<str>,
) -> Result<
    impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Clone + Send + Sync + 'static,
    LayerError,
> {
    allowed_header(name.as_ref()).map(reader)
}

fn reader(
    name: HeaderName,
) -> impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Clone + Send + Sync + 'static {
    move |head: RequestHead<'_>| label(head.headers(), &name).unwrap_or_default()
}

/// A header that may become a label.
pub(crate) fn allowed_header(name: &str) -> Result<HeaderName, LayerError> {
    // What proves who somebody is must not travel to where policies are decided and watched.
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

/// The values of a header that are text and not blank, joined by commas. `None` where there is
/// none: an empty or unreadable value must not stand in the way of a default.
#[inline]
pub(crate) fn label<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let first = first(headers, name)?;
    // Mostly a header stands there once; then each name has one value.
    if headers.len() == headers.keys_len() {
        return visible(first).map(Cow::Borrowed);
    }
    let mut values = headers.get_all(name).iter().filter_map(visible);
    let mut all = Cow::Borrowed(values.next()?);
    for value in values {
        let all = all.to_mut();
        all.push(',');
        all.push_str(value);
    }
    Some(all)
}

#[inline]
fn visible(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?.trim_ascii();
    (!text.is_empty()).then_some(text)
}

/// All values of a header as one text, as HTTP joins lists, with U+FFFD for what is not UTF-8.
#[inline]
pub(crate) fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let first = first(headers, name)?;
    // A header that stands there once is the rule; then each name has one value.
    if headers.len() == headers.keys_len() {
        return Some(text(first));
    }
    let mut values = headers.get_all(name).iter();
    let mut all = text(values.next()?);
    for value in values {
        let all = all.to_mut();
        all.push(',');
        all.push_str(&text(value));
    }
    Some(all)
}

#[inline]
fn text(value: &HeaderValue) -> Cow<'_, str> {
    // ASCII is the rule, and cheaper to see.
    value
        .to_str()
        .map_or_else(|_| String::from_utf8_lossy(value.as_bytes()), Cow::Borrowed)
}
