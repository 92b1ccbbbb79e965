//! Keys of stored responses in the result cache.

use std::fmt::Write;

use http::Method;
use http::header::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

/// The longest key, in bytes, that is kept as readable text. An Agent accepts keys of about 220
/// bytes, the control point included.
const MAX_READABLE_BYTES: usize = 128;

/// Returns the key of a response: the method, the user's part of the key, and the request fields
/// that the response may depend on.
///
/// Every part has its length or its name in front, so that requests that differ in one part have
/// different keys. A key that is too long or not UTF-8 is replaced by its SHA-256. The hash is
/// cryptographic because clients may choose parts of keys, and must not be able to construct a key
/// that collides with that of another client's response.
pub(super) fn build(
    method: &Method,
    user_key: &str,
    vary: &[HeaderName],
    headers: &HeaderMap,
) -> String {
    let mut text = format!("{method} {}:", user_key.len()).into_bytes();
    text.extend_from_slice(user_key.as_bytes());
    for name in vary {
        text.push(b' ');
        text.extend_from_slice(name.as_str().as_bytes());
        let mut values = headers.get_all(name).iter();
        if let Some(first) = values.next() {
            // Several lines of one field are one list (RFC 9110, section 5.3).
            let mut value = first.as_bytes().to_vec();
            for next in values {
                value.extend_from_slice(b", ");
                value.extend_from_slice(next.as_bytes());
            }
            text.extend_from_slice(format!("={}:", value.len()).as_bytes());
            text.extend_from_slice(&value);
        }
    }
    if text.len() <= MAX_READABLE_BYTES
        && let Ok(text) = str::from_utf8(&text)
    {
        return text.to_owned();
    }
    let mut key = format!("{method} #");
    for byte in Sha256::digest(&text) {
        let _ = write!(key, "{byte:02x}"); // writing to a `String` cannot fail
    }
    key
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const VARY: [HeaderName; 2] = [http::header::ACCEPT_ENCODING, http::header::ACCEPT_LANGUAGE];

    type KeyParts = (bool, String, Vec<Vec<u8>>, Vec<Vec<u8>>);

    fn key((is_head, user_key, encodings, languages): &KeyParts) -> String {
        let method = if *is_head { Method::HEAD } else { Method::GET };
        let mut headers = HeaderMap::new();
        for (name, values) in VARY.iter().zip([encodings, languages]) {
            for value in values {
                headers.append(name, HeaderValue::from_bytes(value).expect("legal"));
            }
        }
        build(&method, user_key, &VARY, &headers)
    }

    #[test]
    fn short_keys_are_readable() {
        let parts = (false, "/cat 1".to_owned(), vec![b"gzip".to_vec()], vec![]);
        assert_eq!(
            key(&parts),
            "GET 6:/cat 1 accept-encoding=4:gzip accept-language"
        );
    }

    #[test]
    fn long_or_non_utf8_keys_become_ascii_hashes() {
        for parts in [
            (false, "x".repeat(100_000), vec![], vec![]),
            (true, String::new(), vec![vec![0xff]], vec![]),
        ] {
            let key = key(&parts);
            assert!(key.len() <= 70 && key.is_ascii(), "{key}");
        }
    }

    fn parts() -> impl Strategy<Value = KeyParts> {
        let value = || "[a=:, 1]{0,3}".prop_map(String::into_bytes);
        let values = move || proptest::collection::vec(value(), 0..3);
        let user_key = "[a=: 1]{0,6}|[a ]{120,140}";
        (any::<bool>(), user_key, values(), values())
    }

    proptest! {
        #[test]
        fn different_requests_have_different_keys(one in parts(), two in parts()) {
            // Several lines of a field are the same list as one line with several members.
            let joined = |values: &[Vec<u8>]| (!values.is_empty()).then(|| values.join(&b", "[..]));
            let same = one.0 == two.0
                && one.1 == two.1
                && joined(&one.2) == joined(&two.2)
                && joined(&one.3) == joined(&two.3);
            prop_assert_eq!(key(&one) == key(&two), same);
        }
    }
}
