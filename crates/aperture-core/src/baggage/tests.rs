//! Tests of which `baggage` members become labels.

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
    add_labels(&mut labels, &headers, |_| false);
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

/// Malformed members.
const MALFORMED: [&str; 14] = [
    "user",
    "=ann",
    "",
    "us er=a",
    "user=\"a\"",
    "user=a b",
    "user=a\\b",
    "user=\u{fc}",
    "user=%zz",
    "user=%2",
    "user=%",
    "user=ann; prop = x y",
    "user=ann;=x",
    "user=ann;a b",
];

#[test]
fn a_malformed_member_affects_no_other() {
    for bad in MALFORMED {
        expect(bad, &[]);
        for line in [
            format!("tier=gold,{bad},plan=free"),
            format!("{bad},tier=gold,plan=free"),
            format!("tier=gold,plan=free,{bad}"),
            format!("{bad},{bad},tier=gold,,plan=free,{bad}"),
        ] {
            expect(&line, &[("plan", "free"), ("tier", "gold")]);
        }
    }
    expect(",,,", &[]);
    expect("user=ann,user=%", &[("user", "ann")]);
}

#[test]
fn a_malformed_line_does_not_affect_other_lines() {
    let too_many = (0..500).map(|at| format!("k{at}")).collect::<Vec<_>>();
    let too_many = too_many.join(",");
    for bad in MALFORMED
        .into_iter()
        .chain([&*too_many, ",,", "\u{fc},=", ";"])
    {
        for lines in [[bad, "user=ann"], ["user=ann", bad]] {
            let lines = lines.map(str::as_bytes);
            assert_eq!(
                labels(&lines),
                [("user".to_owned(), "ann".to_owned())],
                "{bad:?}"
            );
        }
    }
    assert_eq!(labels(&[b"a=1", b"b=2,c=3", b"%"]).len(), 3);
}

#[test]
fn the_last_180_members_of_a_line_count_and_long_values_are_read() {
    let members = |count: usize| {
        let all: Vec<_> = (0..count).map(|at| format!("k{at}=1")).collect();
        all.join(",")
    };
    assert_eq!(labels(&[members(180).as_bytes()]).len(), 180);
    let line = members(200);
    let headers = headers(&[line.as_bytes(), b"user=ann"]);
    let mut labels = Labels::with_limits(LabelLimits {
        count: 1000,
        bytes: 100_000,
    });
    add_labels(&mut labels, &headers, |_| false);
    assert_eq!((labels.len(), labels.dropped()), (181, 20));
    assert_eq!((labels.get("k19"), labels.get("k20")), (None, Some("1")));

    let long = format!("user={}", "u".repeat(20_000));
    let found = self::labels(&[long.as_bytes(), b"tier=gold"]);
    assert_eq!(found.len(), 2);
    assert_eq!(found[1].1.len(), 20_000);
}

#[test]
fn members_of_a_long_line_leave_room_for_other_lines() {
    let flood: Vec<_> = (0..100).map(|at| format!("k{at}=1")).collect();
    let flood = flood.join(",");
    let big: Vec<_> = (0..10)
        .map(|at| format!("k{at}={}", "b".repeat(150)))
        .collect();
    let big = big.join(",");
    for bad in [&flood, &big] {
        for lines in [[bad.as_str(), "a=1,user=ann"], ["a=1,user=ann", bad]] {
            let headers = headers(&lines.map(str::as_bytes));
            let mut labels = Labels::with_limits(LabelLimits {
                count: 20,
                bytes: 1000,
            });
            labels.insert("own", "1");
            add_labels(&mut labels, &headers, |_| false);
            assert_eq!(labels.get("user"), Some("ann"));
            assert_eq!(labels.get("own"), Some("1"));
            assert!(labels.len() <= 20 && labels.dropped() > 0);
            let all = lines[0].split(',').count() + lines[1].split(',').count();
            assert_eq!(labels.len() - 1 + labels.dropped() as usize, all);
        }
    }
}

#[test]
fn reserved_keys_are_skipped_even_if_percent_encoded() {
    let headers = headers(&[b"user=eve,%75ser=eve,User=eve,us%65r=eve,tier=gold"]);
    let mut labels = Labels::new();
    add_labels(&mut labels, &headers, |key| key == "user");
    let mut keys: Vec<_> = labels.iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["User", "tier"]);
}

#[test]
fn an_agent_ignores_a_header_with_any_malformed_member() {
    let count = |header: &str| members(header.as_bytes()).map(Iterator::count);
    assert_eq!(count("user=ann,tier=gold"), Some(2));
    for bad in MALFORMED {
        assert_eq!(count(bad), None, "{bad:?}");
        assert_eq!(count(&format!("tier=gold,{bad}")), None, "{bad:?}");
    }
    let many = |count: usize| vec!["a=1"; count].join(",");
    assert_eq!((count(&many(180)), count(&many(181))), (Some(180), None));
    let member = |bytes: usize| format!("user={}", "u".repeat(bytes - 5));
    assert_eq!(count(&member(4096)), Some(1));
    assert_eq!(count(&member(4097)), None);
    // Properties and blanks count towards the length.
    assert_eq!(count(&format!("{};p= ", member(4093))), None);
    let two = format!("{},{}", member(4096), member(4095));
    assert_eq!((two.len(), count(&two)), (8192, Some(2)));
    assert_eq!(count(&format!("{two} ")), None);
}

proptest! {
    #[test]
    fn any_bytes_are_accepted(
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
    fn each_member_is_parsed_alone(header in "[a-c=,;% 2\"\\\\]{0,24}") {
        let found = labels(&[header.as_bytes()]);
        let mut alone: Vec<_> = header
            .split(',')
            .rev()
            .flat_map(|member| labels(&[member.as_bytes()]))
            .collect();
        // The sort is stable, so the last value of a key is kept.
        alone.sort_by(|one, two| one.0.cmp(&two.0));
        alone.dedup_by(|later, kept| later.0 == kept.0);
        prop_assert_eq!(found, alone);
    }

    #[test]
    fn encoded_values_are_decoded_unchanged(
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
