//! `Cache-Control` of requests and responses (RFC 9111, section 5.2).

use http::header::{self, HeaderMap, HeaderValue};

/// The directives of a message that matter to a shared cache that never validates.
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
    /// There is a field that cannot be read.
    pub(super) malformed: bool,
}

/// An argument in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Seconds {
    #[default]
    Absent,
    Given(u64),
    /// No number, or two that differ.
    Invalid,
}

impl Seconds {
    fn see(&mut self, argument: Option<&[u8]>) {
        let given = argument.and_then(number);
        *self = match (*self, given) {
            (Self::Absent, Some(given)) => Self::Given(given),
            (Self::Given(known), Some(given)) if known == given => *self,
            _ => Self::Invalid,
        };
    }
}

/// Larger numbers count as this one, which is as good as for ever (section 1.2.2).
const LARGEST: u64 = 1 << 31;

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let text = str::from_utf8(text).ok()?;
    Some(text.parse().unwrap_or(LARGEST).min(LARGEST))
}

impl Directives {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut all = Self::default();
        for value in headers.get_all(header::CACHE_CONTROL) {
            if all.read(value).is_none() {
                all.malformed = true;
            }
        }
        all
    }

    /// Whether a request with these directives might refuse a stored response that is fresh
    /// (section 5.2.1).
    pub(super) fn may_refuse(&self, headers: &HeaderMap) -> bool {
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
            self.see(name, argument);
        }
    }

    /// `private` and `no-cache` that name fields count for the whole response, as section 5.2.2
    /// allows. Unknown directives are ignored.
    fn see(&mut self, name: &[u8], argument: Option<&[u8]>) {
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
            self.max_age.see(argument);
        } else if is("s-maxage") {
            self.s_maxage.see(argument);
        } else if is("min-fresh") {
            self.min_fresh.see(argument);
        }
    }
}

/// Whether a message from before HTTP/1.1 wants no cache: `Pragma` counts where there is no
/// `Cache-Control` (section 5.4).
pub(super) fn pragma_no_cache(headers: &HeaderMap) -> bool {
    let no_cache = |member: &[u8]| member.trim_ascii().eq_ignore_ascii_case(b"no-cache");
    let says = |value: &HeaderValue| value.as_bytes().split(|byte| *byte == b',').any(no_cache);
    !headers.contains_key(header::CACHE_CONTROL) && headers.get_all(header::PRAGMA).iter().any(says)
}

fn token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let end = text.iter().position(|byte| !tchar(byte));
    let (token, rest) = text.split_at(end.unwrap_or(text.len()));
    (!token.is_empty()).then_some((token, rest))
}

/// Reads up to the closing quote and gives what follows it.
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

    fn of(values: &[&str]) -> Directives {
        let values = values.iter().map(|value| {
            let value = HeaderValue::from_bytes(value.as_bytes());
            (header::CACHE_CONTROL, value.expect("a legal value"))
        });
        Directives::of(&values.collect())
    }

    #[test]
    fn names_are_of_any_case_and_members_of_any_line() {
        let found = of(&["Max-Age=5 ,\tPUBLIC,,", "No-Store, S-MaxAge=\"7\", x=y, z"]);
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
    fn a_comma_in_quotes_ends_nothing() {
        let found = of(&[r#"private="set-cookie, max-age=9\", no-store", max-age=3"#]);
        let expected = Directives {
            private: true,
            max_age: Seconds::Given(3),
            ..Directives::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn seconds_are_whole_numbers_that_agree() {
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
            assert_eq!(of(&[value]).max_age, expected, "{value}");
        }
    }

    #[test]
    fn nonsense_is_noticed() {
        for value in [
            "=5",
            "max-age=",
            "a b",
            "\"no-store\"",
            "x=\"y",
            "\u{fc}",
            "no-store;x",
        ] {
            assert!(of(&[value]).malformed, "{value}");
        }
        assert!(!of(&["", " , "]).malformed);
    }

    proptest! {
        #[test]
        fn any_value_is_survived(value in proptest::collection::vec(any::<u8>(), 0..48)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let _ = Directives::of(&HeaderMap::from_iter([(header::CACHE_CONTROL, value)]));
            }
        }

        #[test]
        fn no_store_is_seen_among_anything_well_formed(
            before in "([a-z-]{1,8}(=[a-z0-9]{1,4}|=\"[^\"\\\\\u{0}-\u{1f}\u{7f}-\u{10ffff}]{0,8}\")?[ \t]{0,2},[ \t]{0,2}){0,4}",
        ) {
            let found = of(&[&format!("{before}nO-StOrE")]);
            prop_assert!(found.no_store && !found.malformed, "{before:?}");
        }
    }
}
