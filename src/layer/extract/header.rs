use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::flow::headers::first;
use crate::layer::RequestHead;
use crate::layer::error::LayerError;
use crate::layer::layer::refuse;

/// Reads a header: all its values, joined by commas, with U+FFFD for what is not UTF-8; empty where
/// the request has none.
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
    reader(refuse(allowed_header(name.as_ref())))
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
    move |head: RequestHead<'_>| joined(head.headers(), &name).unwrap_or_default()
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

/// All values of a header as one text, as HTTP joins lists.
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
