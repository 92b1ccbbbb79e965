//! A fast header lookup for the path of every request.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The most headers that are compared one by one, which costs less than hashing the name.
const LINEAR_SCAN_MAX: usize = 12;

/// Returns the first value of a header.
#[inline(always)]
pub fn first_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    if headers.len() > LINEAR_SCAN_MAX {
        return headers.get(name);
    }
    for (known, value) in headers {
        if known == name {
            return Some(value);
        }
    }
    None
}
