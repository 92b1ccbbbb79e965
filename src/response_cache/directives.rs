//! Parses `Cache-Control` of requests and responses (RFC 9111, section 5.2).

use http::header::{self, HeaderMap, HeaderValue};

/// The directives of a message that matter to a shared cache that never revalidates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Directives {
    pub(super) no_store: bool,
    pub(super) no_cache: bool,
    pub(super) private: bool,
    pub(super) public: bool,
    pub(super) must_revalidate: bool,
    pub(super) max_age: Seconds,
    pub(super) s_maxage: Seconds,
    pub(super) min_fresh: Seconds,
    /// A `cache-control` field cannot be parsed.
    pub(super) malformed: bool,
}

/// An argument in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Seconds {
    #[default]
    Absent,
    Given(u64),
    /// The argument is not a number, or the directive is repeated with a different number.
    Invalid,
}

impl Seconds {
    /// Adds an occurrence of the directive.
    fn add(&mut self, argument: Option<&[u8]>) {
        let given = argument.and_then(number);
        *self = match (*self, given) {
            (Self::Absent, Some(given)) => Self::Given(given),
            (Self::Given(known), Some(given)) if known == given => *self,
            _ => Self::Invalid,
        };
    }
}

/// The largest number of seconds. Larger numbers count as this one, which stands for infinity
/// (section 1.2.2).
const LARGEST: u64 = 1 << 31;

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let text = str::from_utf8(text).ok()?;
    Some(text.parse().unwrap_or(LARGEST).min(LARGEST))
}

impl Directives {
    /// Parses all `cache-control` fields of a message.
    pub(super) fn from_headers(headers: &HeaderMap) -> Self {
        let mut all = Self::default();
        for value in headers.get_all(header::CACHE_CONTROL) {
            if all.read(value).is_none() {
                all.malformed = true;
            }
        }
        all
    }

    /// Returns true if a request with these directives could rule out a fresh stored response
    /// (section 5.2.1), so that the cache is not looked up.
    pub(super) fn skips_lookup(&self, headers: &HeaderMap) -> bool {
        self.no_cache
            || !matches!(self.max_age, Seconds::Absent | Seconds::Given(LARGEST))
            || !matches!(self.min_fresh, Seconds::Absent | Seconds::Given(0))
            || pragma_no_cache(headers)
    }

    fn read(&mut self, value: &HeaderValue) -> Option<()> {
        let mut rest = value.as_bytes();
        loop {
            // Empty members are allowed (RFC 9110, section 5.6.1.2).
            while let [b' ' | b'\t' | b',', after @ ..] = rest {
                rest = after;
            }
            if rest.is_empty() {
                return Some(());
            }
            let name;
            (name, rest) = token(rest)?;
            let mut quoted = Vec::new();
            let argument = match rest {
                [b'=', b'"', after @ ..] => {
                    rest = unquote(after, &mut quoted)?;
                    Some(&*quoted)
                }
                [b'=', after @ ..] => {
                    let (argument, after) = token(after)?;
                    rest = after;
                    Some(argument)
                }
                _ => None,
            };
            while let [b' ' | b'\t', after @ ..] = rest {
                rest = after;
            }
            if !matches!(rest, [] | [b',', ..]) {
                return None;
            }
            self.add(name, argument);
        }
    }

    /// Adds a directive. `private` and `no-cache` with field names apply to the whole response, as
    /// section 5.2.2 allows. Unknown directives are ignored.
    fn add(&mut self, name: &[u8], argument: Option<&[u8]>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache = true;
        } else if is("private") {
            self.private = true;
        } else if is("public") {
            self.public = true;
        } else if is("must-revalidate") {
            self.must_revalidate = true;
        } else if is("max-age") {
            self.max_age.add(argument);
        } else if is("s-maxage") {
            self.s_maxage.add(argument);
        } else if is("min-fresh") {
            self.min_fresh.add(argument);
        }
    }
}

/// Returns true for a message with `Pragma: no-cache` and without `Cache-Control`, as senders from
/// before HTTP/1.1 write it (section 5.4).
pub(super) fn pragma_no_cache(headers: &HeaderMap) -> bool {
    let no_cache = |member: &[u8]| member.trim_ascii().eq_ignore_ascii_case(b"no-cache");
    let has_no_cache =
        |value: &HeaderValue| value.as_bytes().split(|byte| *byte == b',').any(no_cache);
    !headers.contains_key(header::CACHE_CONTROL)
        && headers.get_all(header::PRAGMA).iter().any(has_no_cache)
}

/// Splits a token (RFC 9110, section 5.6.2) off the front, and returns it with the rest.
fn token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let end = text.iter().position(|byte| !tchar(byte));
    let (token, rest) = text.split_at(end.unwrap_or(text.len()));
    (!token.is_empty()).then_some((token, rest))
}

/// Reads a quoted string up to its closing quote, and returns the text behind it.
fn unquote<'a>(mut text: &'a [u8], into: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match text {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
                into.push(*byte);
                text = rest;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn directives(values: &[&str]) -> Directives {
        let values = values.iter().map(|value| {
            let value = HeaderValue::from_bytes(value.as_bytes());
            (header::CACHE_CONTROL, value.expect("a legal value"))
        });
        Directives::from_headers(&values.collect())
    }

    #[test]
    fn names_are_case_insensitive_and_lines_are_merged() {
        let found = directives(&["Max-Age=5 ,\tPUBLIC,,", "No-Store, S-MaxAge=\"7\", x=y, z"]);
        let expected = Directives {
            no_store: true,
            public: true,
            max_age: Seconds::Given(5),
            s_maxage: Seconds::Given(7),
            ..Directives::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_quoted_comma_does_not_end_a_directive() {
        let found = directives(&[r#"private="set-cookie, max-age=9\", no-store", max-age=3"#]);
        let expected = Directives {
            private: true,
            max_age: Seconds::Given(3),
            ..Directives::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn seconds_are_whole_numbers_and_repetitions_must_agree() {
        for (value, expected) in [
            ("max-age=0", Seconds::Given(0)),
            ("max-age=60, max-age=60", Seconds::Given(60)),
            ("max-age=60, max-age=61", Seconds::Invalid),
            ("max-age=61, max-age=x, max-age=61", Seconds::Invalid),
            ("max-age", Seconds::Invalid),
            ("max-age=-1", Seconds::Invalid),
            ("max-age=1.5", Seconds::Invalid),
            ("max-age=99999999999999999999", Seconds::Given(1 << 31)),
        ] {
            assert_eq!(directives(&[value]).max_age, expected, "{value}");
        }
    }

    #[test]
    fn malformed_fields_are_marked() {
        for value in [
            "=5",
            "max-age=",
            "a b",
            "\"no-store\"",
            "x=\"y",
            "\u{fc}",
            "no-store;x",
        ] {
            assert!(directives(&[value]).malformed, "{value}");
        }
        assert!(!directives(&["", " , "]).malformed);
    }

    proptest! {
        #[test]
        fn arbitrary_values_do_not_panic(value in proptest::collection::vec(any::<u8>(), 0..48)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let _ = Directives::from_headers(&HeaderMap::from_iter([(header::CACHE_CONTROL, value)]));
            }
        }

        #[test]
        fn no_store_is_found_among_other_well_formed_directives(
            before in "([a-z-]{1,8}(=[a-z0-9]{1,4}|=\"[^\"\\\\\u{0}-\u{1f}\u{7f}-\u{10ffff}]{0,8}\")?[ \t]{0,2},[ \t]{0,2}){0,4}",
        ) {
            let found = directives(&[&format!("{before}nO-StOrE")]);
            prop_assert!(found.no_store && !found.malformed, "{before:?}");
        }
    }
}
