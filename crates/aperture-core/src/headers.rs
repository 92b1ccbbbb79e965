//! A fast header lookup for the path of every request.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The most names that are compared one by one, which costs less than hashing the name.
const LINEAR_SCAN_MAX: usize = 12;

/// Returns the first value of a header that most requests lack.
#[inline(always)]
pub fn first_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    if headers.keys_len() <= LINEAR_SCAN_MAX && !headers.keys().any(|known| known == name) {
        return None;
    }
    headers.get(name)
}
