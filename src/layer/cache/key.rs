//! Keys of stored responses.

use std::fmt::Write;

use http::Method;
use http::header::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

/// Up to so many bytes a key stays readable. An Agent keeps about 220, the control point included.
const READABLE: usize = 128;

/// The method, what the user named, and the fields that the response may depend on.
///
/// Every part says its length or its name, so no two requests that differ in one share a key. What
/// is long, or no text, is replaced by its SHA-256: a client that may choose a key must not be able
/// to find a second one for somebody else's response.
pub(super) fn of(method: &Method, named: &str, vary: &[HeaderName], headers: &HeaderMap) -> String {
    let mut text = format!("{method} {}:", named.len()).into_bytes();
    text.extend_from_slice(named.as_bytes());
    for name in vary {
        text.push(b' ');
        text.extend_from_slice(name.as_str().as_bytes());
        let mut values = headers.get_all(name).iter();
        if let Some(first) = values.next() {
            // As HTTP joins lists.
            let mut value = first.as_bytes().to_vec();
            for next in values {
                value.extend_from_slice(b", ");
                value.extend_from_slice(next.as_bytes());
            }
            text.extend_from_slice(format!("={}:", value.len()).as_bytes());
            text.extend_from_slice(&value);
        }
    }
    if text.len() <= READABLE
        && let Ok(text) = str::from_utf8(&text)
    {
        return text.to_owned();
    }
    let mut key = format!("{method} #");
    for byte in Sha256::digest(&text) {
        let _ = write!(key, "{byte:02x}"); // a string takes everything
    }
    key
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const VARY: [HeaderName; 2] = [http::header::ACCEPT_ENCODING, http::header::ACCEPT_LANGUAGE];

    type Parts = (bool, String, Vec<Vec<u8>>, Vec<Vec<u8>>);

    fn key((head, named, encodings, languages): &Parts) -> String {
        let method = if *head { Method::HEAD } else { Method::GET };
        let mut headers = HeaderMap::new();
        for (name, values) in VARY.iter().zip([encodings, languages]) {
            for value in values {
                headers.append(name, HeaderValue::from_bytes(value).expect("legal"));
            }
        }
        of(&method, named, &VARY, &headers)
    }

    #[test]
    fn short_keys_can_be_read() {
        let parts = (false, "/cat 1".to_owned(), vec![b"gzip".to_vec()], vec![]);
        assert_eq!(
            key(&parts),
            "GET 6:/cat 1 accept-encoding=4:gzip accept-language"
        );
    }

    #[test]
    fn keys_are_bounded_and_text() {
        for parts in [
            (false, "x".repeat(100_000), vec![], vec![]),
            (true, String::new(), vec![vec![0xff]], vec![]),
        ] {
            let key = key(&parts);
            assert!(key.len() <= 70 && key.is_ascii(), "{key}");
        }
    }

    fn parts() -> impl Strategy<Value = Parts> {
        let value = || "[a=:, 1]{0,3}".prop_map(String::into_bytes);
        let values = move || proptest::collection::vec(value(), 0..3);
        let named = "[a=: 1]{0,6}|[a ]{120,140}";
        (any::<bool>(), named, values(), values())
    }

    proptest! {
        #[test]
        fn requests_that_differ_have_keys_that_differ(one in parts(), two in parts()) {
            // Lines of one field and members of one line are the same list.
            let joined = |values: &[Vec<u8>]| (!values.is_empty()).then(|| values.join(&b", "[..]));
            let same = one.0 == two.0
                && one.1 == two.1
                && joined(&one.2) == joined(&two.2)
                && joined(&one.3) == joined(&two.3);
            prop_assert_eq!(key(&one) == key(&two), same);
        }
    }
}
