//! Reads parameters of the query.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use crate::layer::head::RequestHead;

/// Returns a reader of a parameter of the query, decoded like a form that a browser sends: `%XX`,
/// and `+` for a blank. Bytes that are not UTF-8 become U+FFFD, and an invalid escape stays as it
/// is.
///
/// The value is empty if the parameter is missing. If it is repeated, the first one counts. The
/// value is borrowed unless it is encoded.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use http::Request;
/// use tower_aperture::layer::{RequestHead, query};
///
/// let read = query("user");
/// let request = Request::get("/cart?user=ann+b&user=eve").body(())?;
/// assert_eq!(read(RequestHead::new(&request)), "ann b");
///
/// let layer = tower_aperture::ApertureLayer::new(client, "cart").label_from("user", read);
/// # let _ = layer;
/// # Ok::<(), http::Error>(())
/// ```
pub fn query(
    name: impl Into<Cow<'static, str>>,
) -> impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Clone + Send + Sync + 'static {
    let name = name.into();
    move |head: RequestHead<'_>| {
        let query = head.uri().query().unwrap_or("");
        let mut pairs = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let found = pairs.find(|(key, _)| *key == name || decoded(key) == name);
        found.map_or(Cow::Borrowed(""), |(_, value)| decoded(value))
    }
}

fn decoded(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| matches!(byte, b'+' | b'%')) {
        return Cow::Borrowed(text);
    }
    let blanks = text.replace('+', " ");
    let text = percent_decode(blanks.as_bytes()).decode_utf8_lossy();
    Cow::Owned(text.into_owned())
}
