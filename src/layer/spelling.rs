//! One spelling for paths that mean the same.

use std::borrow::Cow;

/// Returns a path without repeated slashes, a slash at the end, dot segments, and
/// percent-encodings that RFC 3986 section 6.2.2.2 calls needless. Allocates only if there may be
/// something to change. A text that does not begin with a slash stays as it is.
pub(super) fn normal(path: &str) -> Cow<'_, str> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Cow::Borrowed(path);
    }
    let odd = bytes.contains(&b'%')
        || (bytes.len() > 1 && bytes.ends_with(b"/"))
        || bytes.windows(2).any(|pair| matches!(pair, b"//" | b"/."));
    if !odd {
        return Cow::Borrowed(path);
    }
    let plain = decoded(path, is_unreserved);
    let mut normal = String::with_capacity(plain.len());
    for segment in plain.split('/') {
        match segment {
            "" | "." => {}
            ".." => normal.truncate(normal.rfind('/').unwrap_or(0)),
            segment => {
                normal.push('/');
                normal.push_str(segment);
            }
        }
    }
    if normal.is_empty() {
        normal.push('/');
    }
    Cow::Owned(normal)
}

/// Returns a path with its percent-encoded slashes decoded; `None` if it has none.
pub(super) fn with_slashes(path: &str) -> Option<String> {
    match decoded(path, |byte| byte == b'/') {
        Cow::Borrowed(_) => None,
        Cow::Owned(decoded) => Some(decoded),
    }
}

/// Decodes the percent-encodings of some ASCII characters. Borrows if there are none.
fn decoded(path: &str, is_decoded: impl Fn(u8) -> bool) -> Cow<'_, str> {
    let mut plain = String::new();
    let mut done = 0;
    for (at, _) in path.match_indices('%') {
        let Some(byte) = path.get(at + 1..at + 3).and_then(hex_byte) else {
            continue;
        };
        if byte.is_ascii() && is_decoded(byte) {
            plain.push_str(&path[done..at]);
            plain.push(char::from(byte));
            done = at + 3;
        }
    }
    if done == 0 {
        return Cow::Borrowed(path);
    }
    plain.push_str(&path[done..]);
    Cow::Owned(plain)
}

fn hex_byte(digits: &str) -> Option<u8> {
    let hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_path_become_one() {
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
            assert_eq!(normal(path), expected, "{path}");
        }
        assert!(matches!(normal("/users/42"), Cow::Borrowed(_)));
        assert_eq!(with_slashes("/a%2fb%2Fc").as_deref(), Some("/a/b/c"));
        assert_eq!(with_slashes("/a%2eb"), None);
    }

    proptest! {
        #[test]
        fn a_normal_path_has_no_odd_segments(path in "/[/.%2eFf46a-c]{0,16}") {
            let normal = normal(&path);
            prop_assert!(normal.starts_with('/'));
            if normal != "/" {
                for segment in normal[1..].split('/') {
                    prop_assert!(!matches!(segment, "" | "." | ".."), "{normal}");
                }
            }
        }
    }
}
