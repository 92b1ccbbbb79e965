//! Normalizes paths, so that different spellings of a path match the same route.

use std::borrow::Cow;

/// Returns a path without repeated slashes, a trailing slash, dot segments, and unnecessary
/// percent-encodings (RFC 3986 section 6.2.2.2). Allocates only if the path may need changes. A
/// text that does not start with a slash is returned unchanged.
pub(super) fn normalize(path: &str) -> Cow<'_, str> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Cow::Borrowed(path);
    }
    let may_change = bytes.contains(&b'%')
        || (bytes.len() > 1 && bytes.ends_with(b"/"))
        || bytes.windows(2).any(|pair| matches!(pair, b"//" | b"/."));
    if !may_change {
        return Cow::Borrowed(path);
    }
    let decoded = decode(path, is_unreserved);
    let mut normalized = String::with_capacity(decoded.len());
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => normalized.truncate(normalized.rfind('/').unwrap_or(0)),
            segment => {
                normalized.push('/');
                normalized.push_str(segment);
            }
        }
    }
    if normalized.is_empty() {
        normalized.push('/');
    }
    Cow::Owned(normalized)
}

/// Decodes the percent-encoded slashes of a path; `None` if it has none.
pub(super) fn decode_slashes(path: &str) -> Option<String> {
    match decode(path, |byte| byte == b'/') {
        Cow::Borrowed(_) => None,
        Cow::Owned(decoded) => Some(decoded),
    }
}

/// Decodes the percent-encodings of the ASCII characters that `should_decode` selects. Borrows if
/// there are none.
fn decode(path: &str, should_decode: impl Fn(u8) -> bool) -> Cow<'_, str> {
    let mut decoded = String::new();
    let mut done = 0;
    for (at, _) in path.match_indices('%') {
        let Some(byte) = path.get(at + 1..at + 3).and_then(hex_byte) else {
            continue;
        };
        if byte.is_ascii() && should_decode(byte) {
            decoded.push_str(&path[done..at]);
            decoded.push(char::from(byte));
            done = at + 3;
        }
    }
    if done == 0 {
        return Cow::Borrowed(path);
    }
    decoded.push_str(&path[done..]);
    Cow::Owned(decoded)
}

fn hex_byte(digits: &str) -> Option<u8> {
    let hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// Returns true for the unreserved characters of RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn normalize_maps_all_spellings_of_a_path_to_one() {
        for (path, expected) in [
            ("/", "/"),
            ("//", "/"),
            ("/.", "/"),
            ("/..", "/"),
            ("/../..//a", "/a"),
            ("/a/", "/a"),
            ("//a//b//", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/b/..", "/a"),
            ("/a/%2E%2e/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/%61%2Db", "/a-b"),
            ("/a%2fb", "/a%2fb"),
            ("/a%2", "/a%2"),
            ("/a%", "/a%"),
            ("/%%36%31", "/%61"),
            ("/%zz/.", "/%zz"),
            ("/...", "/..."),
            ("/.well-known", "/.well-known"),
            ("/a/..b", "/a/..b"),
            ("*", "*"),
            ("", ""),
            ("a//b", "a//b"),
        ] {
            assert_eq!(normalize(path), expected, "{path}");
        }
        assert!(matches!(normalize("/users/42"), Cow::Borrowed(_)));
        assert_eq!(decode_slashes("/a%2fb%2Fc").as_deref(), Some("/a/b/c"));
        assert_eq!(decode_slashes("/a%2eb"), None);
    }

    proptest! {
        #[test]
        fn a_normalized_path_has_no_empty_or_dot_segments(path in "/[/.%2eFf46a-c]{0,16}") {
            let normalized = normalize(&path);
            prop_assert!(normalized.starts_with('/'));
            if normalized != "/" {
                for segment in normalized[1..].split('/') {
                    prop_assert!(!matches!(segment, "" | "." | ".."), "{normalized}");
                }
            }
        }
    }
}
