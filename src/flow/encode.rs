//! Labels as a `baggage` header, which is how they travel to an Agent that makes labels itself.

use std::cmp::Reverse;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::shorten::{HASH, shorten};
use super::{Labels, baggage};

/// What W3C Baggage does not let stand in a value, and what begins an escape.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b',').add(b';').add(b'\\');

/// Labels as the `baggage` header that an Agent reads them back from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EncodedLabels {
    /// `None` when there is nothing to say.
    pub(crate) header: Option<String>,
    /// Labels that the header has no room for, or whose key is no token.
    pub(crate) lost: u32,
    /// Values that were made shorter, so that the header has room for them.
    pub(crate) shortened: u32,
}

/// Encodes labels as a `baggage` header.
///
/// An Agent ignores a header beyond a limit, or with a key that is no token, with all that is in
/// it. What does not fit is made shorter, the client's largest values first, as their encoding may
/// take five bytes for one; what does not fit even so stays out, the application's constants last.
pub(crate) fn encode_baggage(labels: &Labels<'_>) -> EncodedLabels {
    let (mut header, mut count, mut lost) = (String::new(), 0, 0_u32);
    for (key, value) in labels.iter() {
        if !baggage::is_token(key.as_bytes()) {
            lost = lost.saturating_add(1);
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
        lost,
        shortened: 0,
    }
}

/// Encodes a value for two decodings, the second one that of a query.
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

/// One label of a header that has no room for all.
struct Member {
    text: String,
    /// As a hash, where that is shorter.
    hashed: Option<String>,
    own: bool,
}

#[cold]
#[inline(never)]
fn encode_within_limits(labels: &Labels<'_>) -> EncodedLabels {
    let (mut lost, mut shortened) = (0_u32, 0_u32);
    let mut members = Vec::new();
    for (at, (key, value)) in labels.iter().enumerate() {
        if !baggage::is_token(key.as_bytes()) {
            lost = lost.saturating_add(1);
            continue;
        }
        let own = labels.is_own(at);
        let mut text = format!("{key}=");
        encode_value(value, &mut text);
        let hashed = !own && text.len() > key.len() + 1 + HASH;
        members.push(Member {
            hashed: hashed.then(|| format!("{key}={}", shorten(value, HASH))),
            text,
            own,
        });
    }
    // With the commas between them.
    let bytes = |members: &[Member]| {
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
    order.sort_by_key(|at| (members[*at].own, Reverse(members[*at].text.len())));
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
            lost = lost.saturating_add(1);
        }
    }
    let texts: Vec<String> = members
        .into_iter()
        .map(|member| member.text)
        .filter(|text| !text.is_empty())
        .collect();
    EncodedLabels {
        header: (!texts.is_empty()).then(|| texts.join(",")),
        lost,
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
            lost,
            shortened: _,
        } = encode_baggage(&all);
        (header, lost)
    }

    #[test]
    fn labels_are_encoded_for_two_decodings() {
        let (text, lost) = header(&[("user", "a b"), ("sum", "1+1=100%"), ("city", "Zür;ich")]);
        let expected = "user=a%20b,sum=1%252B1=100%2525,city=Z%C3%BCr%3Bich";
        assert_eq!((text.as_deref(), lost), (Some(expected), 0));
        assert_eq!(header(&[]), (None, 0));
    }

    #[test]
    fn what_would_spoil_the_header_stays_out() {
        let long = "v".repeat(baggage::MAX_MEMBER_BYTES);
        let (text, lost) = header(&[("not a token", "1"), ("long", &long), ("", "x"), ("b", "2")]);
        let expected = format!("long={},b=2", shorten(&long, HASH));
        assert_eq!((text, lost), (Some(expected), 2));
        let big = "v".repeat(3000);
        let (text, lost) = header(&[("a", &big), ("b", &big), ("c", &big), ("d", "1")]);
        let text = text.expect("all of it");
        assert_eq!((text.len(), lost), (2 * 3002 + 34 + 3 + 3, 0));
        assert!(text.ends_with(",d=1"), "what still fits travels");
    }

    #[test]
    fn a_clients_values_that_grow_when_encoded_leave_the_constants() {
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
            labels.settle(limits, |_| true);
            let EncodedLabels {
                header,
                lost,
                shortened,
            } = encode_baggage(&labels);
            let header = header.expect("most of it");
            assert!(header.len() <= baggage::MAX_BYTES);
            let members: Vec<_> = header.split(',').collect();
            assert!(members.len() <= baggage::MAX_MEMBERS);
            assert_eq!(members.len() + lost as usize, labels.len());
            for member in ["service=shop", "zone=z", "ip=192.0.2.1"] {
                assert!(members.contains(&member), "{member}");
            }
            assert_eq!(lost, if readers == 60 { 0 } else { lost.max(1) });
            assert!(shortened > 0);
        }
    }

    proptest! {
        #[test]
        fn any_labels_make_a_well_formed_header(
            pairs in proptest::collection::hash_map(any::<String>(), any::<String>(), 0..6),
        ) {
            let labels: Labels<'_> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let EncodedLabels { header, lost, .. } = encode_baggage(&labels);
            let mut headers = HeaderMap::new();
            if let Some(text) = header {
                headers.insert("baggage", HeaderValue::from_str(&text).expect("ASCII"));
            }
            let mut read = Labels::new();
            baggage::add_labels(&mut read, &headers, |_| false);
            prop_assert_eq!(read.len() + lost as usize, labels.len());
        }
    }
}
