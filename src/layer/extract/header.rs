use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::flow::headers::first;
use crate::layer::error::LayerError;

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
pub(super) fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
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
