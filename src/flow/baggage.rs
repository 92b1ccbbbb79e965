//! Labels from the `baggage` header of W3C.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode;

use super::Labels;
use super::headers::first;

pub(super) static BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// Limits of W3C Baggage, which the Agent keeps too.
pub(super) const MAX_MEMBERS: usize = 180;
pub(super) const MAX_MEMBER_BYTES: usize = 4096;
pub(super) const MAX_BYTES: usize = 8192;

/// Adds the members of the `baggage` header as labels, where no label of that key is there yet.
///
/// Several headers count as one. All or nothing: what is malformed or beyond a limit of W3C adds
/// no label at all. Of a repeated key the last value counts. Properties are ignored; values are
/// percent-decoded once, with U+FFFD for what is not UTF-8, and borrowed where nothing is encoded.
#[inline]
pub(crate) fn add_labels<'a>(labels: &mut Labels<'a>, headers: &'a HeaderMap) {
    if first(headers, &BAGGAGE).is_some() {
        add_members(labels, headers);
    }
}

fn add_members<'a>(labels: &mut Labels<'a>, headers: &'a HeaderMap) {
    // Checked first, added afterwards: a flaw at the end takes back what stands before it, and
    // two passes cost less than a list of members.
    let all = headers.get_all(&BAGGAGE);
    if !acceptable(all.iter().map(HeaderValue::as_bytes)) {
        return;
    }
    for value in all.iter().rev() {
        for member in value.as_bytes().rsplit(|byte| *byte == b',') {
            if let Some((key, value)) = parse(member) {
                labels.insert_if_absent(key, percent_decode(value).decode_utf8_lossy());
            }
        }
    }
}

/// The decoded value of one member, by the rules of [`add_labels`].
pub(crate) fn member<'a>(headers: &'a HeaderMap, key: &str) -> Option<Cow<'a, str>> {
    let all = headers.get_all(&BAGGAGE);
    if !acceptable(all.iter().map(HeaderValue::as_bytes)) {
        return None;
    }
    let mut values = all.iter().rev();
    values.find_map(|value| {
        let mut members = value.as_bytes().rsplit(|byte| *byte == b',');
        let (_, value) = members.find_map(|text| parse(text).filter(|(known, _)| *known == key))?;
        Some(percent_decode(value).decode_utf8_lossy())
    })
}

/// Keys and encoded values of one header, in order; `None` when it is malformed or beyond a limit.
#[cfg(feature = "embedded")]
pub(crate) fn members(header: &[u8]) -> Option<impl Iterator<Item = (&str, &[u8])>> {
    let well_formed = acceptable([header]);
    well_formed.then(|| header.split(|byte| *byte == b',').filter_map(parse))
}

fn acceptable<'a>(headers: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let (mut members, mut bytes) = (0, 0);
    for value in headers {
        // A comma joins what stands in two headers.
        bytes += value.len() + usize::from(members > 0);
        if bytes > MAX_BYTES {
            return false;
        }
        for member in value.split(|byte| *byte == b',') {
            members += 1;
            if members > MAX_MEMBERS || member.len() > MAX_MEMBER_BYTES || parse(member).is_none() {
                return false;
            }
        }
    }
    members > 0
}

/// Key and encoded value of one member, `None` when it is malformed.
fn parse(member: &[u8]) -> Option<(&str, &[u8])> {
    let mut parts = member.split(|byte| *byte == b';');
    let (key, value) = pair(parts.next()?)?;
    for property in parts {
        let property = property.trim_ascii();
        if property.is_empty() {
            continue;
        }
        if !is_token(property) {
            pair(property)?;
        }
    }
    // A token is ASCII.
    Some((str::from_utf8(key).ok()?, value))
}

/// `key = value`, blanks around both allowed.
fn pair(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == b'=')?;
    let key = text[..at].trim_ascii();
    let value = text[at + 1..].trim_ascii();
    (is_token(key) && is_value(value)).then_some((key, value))
}

pub(super) fn is_token(text: &[u8]) -> bool {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(token)
}

/// Octets that W3C allows in a value, each `%` with its two digits.
fn is_value(mut text: &[u8]) -> bool {
    loop {
        text = match text {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest
            }
            [b'%' | b'"' | b',' | b';' | b'\\', ..] => return false,
            [0x21..=0x7e, rest @ ..] => rest,
            _ => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::LabelLimits;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        values
            .iter()
            .map(|value| {
                (
                    BAGGAGE.clone(),
                    HeaderValue::from_bytes(value).expect("a legal value"),
                )
            })
            .collect()
    }

    fn labels(values: &[&[u8]]) -> Vec<(String, String)> {
        let headers = headers(values);
        let mut labels = Labels::with_limits(LabelLimits {
            count: 1000,
            bytes: 100_000,
        });
        add_labels(&mut labels, &headers);
        let mut all: Vec<_> = labels
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        all.sort();
        all
    }

    fn expect(header: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(labels(&[header.as_bytes()]), expected, "{header:?}");
    }

    #[test]
    fn well_formed_members_become_labels() {
        expect("user=ann", &[("user", "ann")]);
        expect(
            " user = ann , tier\t=\tgold ",
            &[("tier", "gold"), ("user", "ann")],
        );
        expect(
            "user=ann;prop=1;flag,tier=gold",
            &[("tier", "gold"), ("user", "ann")],
        );
        expect("user=ann;", &[("user", "ann")]);
        expect("user=ann; prop = x%20y ;", &[("user", "ann")]);
        expect("user=", &[("user", "")]);
        expect("user=a=b", &[("user", "a=b")]);
        expect("K-Dash=v", &[("K-Dash", "v")]);
    }

    #[test]
    fn values_are_percent_decoded_once() {
        expect("user=al%20ice", &[("user", "al ice")]);
        expect("user=al%2520ice", &[("user", "al%20ice")]);
        expect("user=%C3%BC", &[("user", "\u{fc}")]);
        expect("user=a+b", &[("user", "a+b")]);
        expect("user=a%2Bb", &[("user", "a+b")]);
        expect("user=100%25", &[("user", "100%")]);
        expect("%75ser=ann", &[("%75ser", "ann")]);
    }

    #[test]
    fn bytes_that_are_not_utf8_become_the_replacement_character() {
        expect("user=a%ffb", &[("user", "a\u{fffd}b")]);
    }

    #[test]
    fn the_last_value_of_a_repeated_key_counts() {
        expect("user=a,user=b", &[("user", "b")]);
        assert_eq!(
            labels(&[b"user=a,user=b", b"user=c"]),
            [("user".to_owned(), "c".to_owned())]
        );
    }

    #[test]
    fn a_malformed_header_adds_nothing_at_all() {
        for header in [
            "user",
            "=ann",
            "user=ann,,tier=gold",
            "user=ann,",
            ",user=ann",
            ",",
            "",
            "us er=a",
            "user=\"a\"",
            "user=a b",
            "user=a\\b",
            "user=\u{fc}",
            "user=%zz",
            "user=%2",
            "tier=gold,user=%",
            "user=ann; prop = x y",
            "user=ann;=x",
            "user=ann;a b",
        ] {
            expect(header, &[]);
        }
        assert!(labels(&[b"user=ann", b"oops"]).is_empty());
    }

    #[test]
    fn several_headers_count_as_one() {
        assert_eq!(labels(&[b"a=1", b"b=2,c=3"]).len(), 3);
        let half = vec![b'v'; MAX_MEMBER_BYTES - 2];
        let (one, two) = ([b"a=", &half[..]].concat(), [b"b=", &half[..]].concat());
        assert_eq!(labels(&[&one]).len(), 1);
        // Together 8193 bytes, the comma included.
        assert!(labels(&[&one, &two]).is_empty());
        assert_eq!(labels(&[&one, &two[..two.len() - 1]]).len(), 2);
    }

    #[test]
    fn beyond_a_limit_the_header_adds_nothing() {
        let members = |count: usize| {
            let all: Vec<_> = (0..count).map(|at| format!("k{at}=1")).collect();
            all.join(",")
        };
        assert_eq!(labels(&[members(180).as_bytes()]).len(), 180);
        assert!(labels(&[members(181).as_bytes()]).is_empty());

        let member = |bytes: usize| format!("user={}", "u".repeat(bytes - 5));
        assert_eq!(labels(&[member(4096).as_bytes()]).len(), 1);
        assert!(labels(&[member(4097).as_bytes()]).is_empty());
        // Properties and blanks count.
        let padded = format!("{};p= ", member(4093));
        assert!(labels(&[padded.as_bytes()]).is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..4),
        ) {
            let values: Vec<&[u8]> = values
                .iter()
                .map(Vec::as_slice)
                .filter(|value| HeaderValue::from_bytes(value).is_ok())
                .collect();
            let members = values.iter().flat_map(|value| value.split(|byte| *byte == b',')).count();
            prop_assert!(labels(&values).len() <= members);
        }

        #[test]
        fn near_misses_are_all_or_nothing(header in "[a-c=,;% 2\"\\\\]{0,24}") {
            let found = labels(&[header.as_bytes()]);
            let members: Vec<_> = header.split(',').collect();
            let fine = members.iter().all(|member| !labels(&[member.as_bytes()]).is_empty());
            prop_assert_eq!(!found.is_empty(), fine);
        }

        #[test]
        fn what_was_encoded_comes_back(
            pairs in proptest::collection::hash_map("[a-zA-Z0-9_.-]{1,8}", any::<String>(), 1..8),
        ) {
            let header: Vec<_> = pairs
                .iter()
                .map(|(key, value)| {
                    let value = percent_encoding::utf8_percent_encode(
                        value,
                        percent_encoding::NON_ALPHANUMERIC,
                    );
                    format!("{key}={value};p=1")
                })
                .collect();
            let mut expected: Vec<_> = pairs.into_iter().collect();
            expected.sort();
            prop_assert_eq!(labels(&[header.join(",").as_bytes()]), expected);
        }
    }
}
