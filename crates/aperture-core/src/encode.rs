//! Encodes labels as a `baggage` header, for checks by HTTP attributes: the Agent makes the labels
//! itself and reads these from the header.

use std::cmp::Reverse;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::shorten::{HASH_LEN, shorten};
use super::{Labels, baggage};

/// The characters that W3C Baggage does not allow in a value. [`encode_value`] handles `%` and `+`.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b',').add(b';').add(b'\\');

/// Labels encoded as a `baggage` header, with counts of those that did not fit.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EncodedLabels {
    /// `None` if no label is encoded.
    pub header: Option<String>,
    /// The number of labels that do not fit, or whose key is not a token.
    pub dropped: u32,
    /// The number of values that were shortened to fit.
    pub shortened: u32,
}

/// Encodes labels as a `baggage` header.
///
/// An Agent ignores the entire header if it exceeds a limit or has a key that is not a token. So
/// values that do not fit are shortened, the largest values of clients first, because their
/// encoding may take five bytes for one. Labels that still do not fit are left out, the
/// application's constants last.
pub fn encode_baggage(labels: &Labels<'_>) -> EncodedLabels {
    let (mut header, mut count, mut dropped) = (String::new(), 0, 0_u32);
    for (key, value) in labels.iter() {
        if !baggage::is_token(key.as_bytes()) {
            dropped = dropped.saturating_add(1);
            continue;
        }
        if count > 0 {
            header.push(',');
        }
        count += 1;
        let start = header.len();
        header.push_str(key);
        header.push('=');
        encode_value(value, &mut header);
        if count > baggage::MAX_MEMBERS
            || header.len() - start > baggage::MAX_MEMBER_BYTES
            || header.len() > baggage::MAX_BYTES
        {
            return encode_within_limits(labels);
        }
    }
    EncodedLabels {
        header: (count > 0).then_some(header),
        dropped,
        shortened: 0,
    }
}

/// Encodes a value so that it survives two decodings, of which the second is that of a URL query.
fn encode_value(value: &str, to: &mut String) {
    for part in value.split_inclusive(['%', '+']) {
        let (plain, twice) = match part.as_bytes().last() {
            Some(b'%') => (&part[..part.len() - 1], "%2525"),
            Some(b'+') => (&part[..part.len() - 1], "%252B"),
            _ => (part, ""),
        };
        to.extend(utf8_percent_encode(plain, ENCODED));
        to.push_str(twice);
    }
}

/// One encoded label, for a header that has no room for all labels.
struct EncodedMember {
    text: String,
    /// The member with a hash as its value, if that is shorter and the value is not a constant.
    hashed: Option<String>,
    constant: bool,
}

#[cold]
#[inline(never)]
fn encode_within_limits(labels: &Labels<'_>) -> EncodedLabels {
    let (mut dropped, mut shortened) = (0_u32, 0_u32);
    let mut members = Vec::new();
    for (at, (key, value)) in labels.iter().enumerate() {
        if !baggage::is_token(key.as_bytes()) {
            dropped = dropped.saturating_add(1);
            continue;
        }
        let constant = labels.is_constant(at);
        let mut text = format!("{key}=");
        encode_value(value, &mut text);
        let hashed = !constant && text.len() > key.len() + 1 + HASH_LEN;
        members.push(EncodedMember {
            hashed: hashed.then(|| format!("{key}={}", shorten(value, HASH_LEN))),
            text,
            constant,
        });
    }
    // The members and the commas between them.
    let bytes = |members: &[EncodedMember]| {
        let texts: usize = members.iter().map(|member| member.text.len() + 1).sum();
        texts.saturating_sub(1)
    };
    let mut total = bytes(&members);
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|at| Reverse(members[*at].text.len()));
    for at in order {
        let member = &mut members[at];
        let too_long = member.text.len() > baggage::MAX_MEMBER_BYTES;
        if (too_long || total > baggage::MAX_BYTES)
            && let Some(hashed) = member.hashed.take()
        {
            total -= member.text.len() - hashed.len();
            member.text = hashed;
            shortened = shortened.saturating_add(1);
        }
    }
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|at| (members[*at].constant, Reverse(members[*at].text.len())));
    let mut count = members.len();
    for at in order {
        let size = members[at].text.len();
        if count > baggage::MAX_MEMBERS
            || size > baggage::MAX_MEMBER_BYTES
            || total > baggage::MAX_BYTES
        {
            members[at].text.clear();
            total = total.saturating_sub(size + 1);
            count -= 1;
            dropped = dropped.saturating_add(1);
        }
    }
    let texts: Vec<String> = members
        .into_iter()
        .map(|member| member.text)
        .filter(|text| !text.is_empty())
        .collect();
    EncodedLabels {
        header: (!texts.is_empty()).then(|| texts.join(",")),
        dropped,
        shortened,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    use super::*;
    use crate::LabelLimits;

    fn header(labels: &[(&str, &str)]) -> (Option<String>, u32) {
        let mut all = Labels::with_limits(LabelLimits {
            count: 8,
            bytes: 100_000,
        });
        all.extend(labels.iter().copied());
        let EncodedLabels {
            header,
            dropped,
            shortened: _,
        } = encode_baggage(&all);
        (header, dropped)
    }

    #[test]
    fn labels_are_encoded_for_two_decodings() {
        let (text, dropped) = header(&[("user", "a b"), ("sum", "1+1=100%"), ("city", "Zür;ich")]);
        let expected = "user=a%20b,sum=1%252B1=100%2525,city=Z%C3%BCr%3Bich";
        assert_eq!((text.as_deref(), dropped), (Some(expected), 0));
        assert_eq!(header(&[]), (None, 0));
    }

    #[test]
    fn labels_that_do_not_fit_are_shortened_or_dropped() {
        let long = "v".repeat(baggage::MAX_MEMBER_BYTES);
        let (text, dropped) =
            header(&[("not a token", "1"), ("long", &long), ("", "x"), ("b", "2")]);
        let expected = format!("long={},b=2", shorten(&long, HASH_LEN));
        assert_eq!((text, dropped), (Some(expected), 2));
        let big = "v".repeat(3000);
        let (text, dropped) = header(&[("a", &big), ("b", &big), ("c", &big), ("d", "1")]);
        let text = text.expect("a header");
        assert_eq!((text.len(), dropped), (2 * 3002 + 34 + 3 + 3, 0));
        assert!(text.ends_with(",d=1"), "a label that fits is kept");
    }

    #[test]
    fn client_values_that_grow_when_encoded_do_not_displace_constants() {
        let constants = [
            ("service".into(), "shop".into()),
            ("zone".into(), "z".into()),
        ];
        let limits = LabelLimits {
            count: 300,
            bytes: 100_000,
        };
        for readers in [60, 250] {
            let mut labels = Labels::with_limits(limits);
            labels.collect_within(200);
            for at in 0..readers {
                labels.insert(format!("reader{at}"), "%".repeat(190));
            }
            labels.insert("ip", "192.0.2.1");
            labels.add_constants(&constants);
            labels.enforce_limits(limits, |_| true);
            let EncodedLabels {
                header,
                dropped,
                shortened,
            } = encode_baggage(&labels);
            let header = header.expect("a header");
            assert!(header.len() <= baggage::MAX_BYTES);
            let members: Vec<_> = header.split(',').collect();
            assert!(members.len() <= baggage::MAX_MEMBERS);
            assert_eq!(members.len() + dropped as usize, labels.len());
            for member in ["service=shop", "zone=z", "ip=192.0.2.1"] {
                assert!(members.contains(&member), "{member}");
            }
            assert_eq!(dropped, if readers == 60 { 0 } else { dropped.max(1) });
            assert!(shortened > 0);
        }
    }

    proptest! {
        #[test]
        fn any_labels_make_a_well_formed_header(
            pairs in proptest::collection::hash_map(any::<String>(), any::<String>(), 0..6),
        ) {
            let labels: Labels<'_> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let EncodedLabels { header, dropped, .. } = encode_baggage(&labels);
            let mut headers = HeaderMap::new();
            if let Some(text) = header {
                headers.insert("baggage", HeaderValue::from_str(&text).expect("ASCII"));
            }
            let mut read = Labels::new();
            baggage::add_labels(&mut read, &headers, |_| false);
            prop_assert_eq!(read.len() + dropped as usize, labels.len());
        }
    }
}
