//! Looking at headers on the way of every request.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Up to so many headers are compared one by one, which costs less than the hash of a name.
const FEW: usize = 12;

/// The first value of a header.
#[inline(always)]
pub(crate) fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    if headers.len() > FEW {
        return headers.get(name);
    }
    for (known, value) in headers {
        if known == name {
            return Some(value);
        }
    }
    None
}
