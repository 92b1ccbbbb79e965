//! Tests of label matchers.

use proptest::prelude::*;

use super::{loaded, refused, replaced};
use crate::policy::LabelMatcher;
use aperture_core::Labels;

fn text(matcher: &str) -> String {
    let selector = format!("{{control_point: shop, label_matcher: {matcher}}}");
    replaced("{control_point: shop}", &selector)
}

fn matcher(written: &str) -> LabelMatcher {
    loaded(&text(written)).policy.components[0].selectors[0]
        .matcher
        .clone()
}

fn matches(written: &str, labels: &[(&str, &str)]) -> bool {
    let labels: Labels<'_> = labels.iter().copied().collect();
    matcher(written).matches(&labels)
}

#[test]
fn matcher_without_conditions_matches_every_flow() {
    for written in [
        "{}",
        "null",
        "{match_labels: {}}",
        "{match_list: []}",
        "{match_labels: }",
    ] {
        assert!(matches(written, &[]), "{written}");
    }
}

#[test]
fn all_given_conditions_must_hold() {
    let written = "{match_labels: {a: x}, match_list: [{key: b, operator: Exists}], expression: {label_exists: c}}";
    assert!(matches(written, &[("a", "x"), ("b", ""), ("c", "")]));
    for missing in 0..3 {
        let mut labels = vec![("a", "x"), ("b", ""), ("c", "")];
        labels.remove(missing);
        assert!(!matches(written, &labels));
    }
}

#[test]
fn list_values_are_literal_and_match_whole_values() {
    let within =
        |values: &str| format!("{{match_list: [{{key: a, operator: In, values: {values}}}]}}");
    assert!(matches(&within("['a|b', \"c\\nd\"]"), &[("a", "a|b")]));
    assert!(matches(&within("['a|b', \"c\\nd\"]"), &[("a", "c\nd")]));
    assert!(!matches(&within("['a|b']"), &[("a", "a")]));
    assert!(!matches(&within("[p.od]"), &[("a", "prod")]));
    assert!(!matches(&within("[a]"), &[("a", "xa")]));
    assert!(matches(&within("[]"), &[("a", "")]));
    assert!(!matches(&within("[]"), &[]));
    let without = "{match_list: [{key: a, operator: NotIn, values: [x]}]}";
    assert!(matches(without, &[]) && matches(without, &[("a", "y")]));
    assert!(!matches(without, &[("a", "x")]));
}

#[test]
fn match_expressions_apply_only_without_match_list() {
    let both = "{match_list: [{key: a, operator: Exists}], match_expressions: [{key: b, operator: Exists}]}";
    assert!(matches(both, &[("a", "")]) && !matches(both, &[("b", "")]));
    let empty = "{match_list: [], match_expressions: [{key: b, operator: Exists}]}";
    assert!(!matches(empty, &[("a", "")]) && matches(empty, &[("b", "")]));
}

#[test]
fn missing_label_satisfies_only_not_and_empty_all() {
    for (written, holds) in [
        ("{expression: {label_equals: {label: a, value: ''}}}", false),
        ("{expression: {label_equals: {label: a}}}", false),
        (
            "{expression: {label_matches: {label: a, regex: .*}}}",
            false,
        ),
        (
            "{expression: {not: {label_matches: {label: a, regex: .*}}}}",
            true,
        ),
        ("{expression: {label_exists: a}}", false),
        ("{expression: {label_exists: ''}}", false),
        ("{expression: {all: {of: []}}}", true),
        ("{expression: {all: {}}}", true),
        ("{expression: {any: {of: []}}}", false),
        ("{expression: {any: {}}}", false),
    ] {
        assert_eq!(matches(written, &[]), holds, "{written}");
    }
}

#[test]
fn pattern_matches_anywhere_in_the_value() {
    let written = "{expression: {label_matches: {label: a, regex: '\\d+x'}}}";
    assert!(matches(written, &[("a", "no 42x no")]));
    assert!(!matches(written, &[("a", "\u{661}x")]));
}

#[test]
fn invalid_matchers_are_refused() {
    for written in [
        "[]",
        "{match_labels: {a: 5}}",
        "{match_labels: {a: }}",
        "{match_labels: [a]}",
        "{match_list: [{operator: Exists}]}",
        "{match_list: [{key: '', operator: Exists}]}",
        "{match_list: [{key: a}]}",
        "{match_list: [{key: a, operator: Near}]}",
        "{match_list: [{key: a, operator: in, values: [b]}]}",
        "{match_list: [{key: a, operator: In, values: [5]}]}",
        "{match_list: [null]}",
        "{match_list: [{key: a, operator: Exists}], match_expressions: [{key: a}]}",
        "{expression: {}}",
        "{expression: {not: {}}}",
        "{expression: {label_exists: a, label_equals: {label: a}}}",
        "{expression: {label_matches: {label: a}}}",
        "{expression: {label_matches: {label: a, regex: ''}}}",
        "{expression: {label_matches: {label: '', regex: a}}}",
        "{expression: {label_matches: {label: a, regex: '('}}}",
        "{expression: {label_matches: {label: a, regex: '(?=a)'}}}",
        "{expression: {label_equals: {value: a}}}",
    ] {
        refused(&text(written));
    }
    let message = refused(&text(
        "{expression: {label_matches: {label: a, regex: '('}}}",
    ));
    assert!(
        message.contains("selectors[0].label_matcher.expression.label_matches.regex: not a valid"),
        "{message}"
    );
}

#[test]
fn patterns_for_other_agent_groups_are_compiled_too() {
    let selectors = "{control_point: shop}, {control_point: shop, agent_group: other, label_matcher: {expression: {label_matches: {label: a, regex: '['}}}}";
    refused(&replaced("{control_point: shop}", selectors));
}

#[test]
fn too_many_patterns_in_one_policy_are_refused() {
    let one = "{label_matches: {label: a, regex: x}},".repeat(300);
    let message = refused(&text(&format!("{{expression: {{any: {{of: [{one}]}}}}}}")));
    assert!(message.contains("regular expressions"), "{message}");
}

fn expressions() -> impl Strategy<Value = String> {
    let label = "[abc]";
    let leaf = prop_oneof![
        label.prop_map(|label| format!("{{label_exists: {label}}}")),
        (label, "[xz]{0,2}").prop_map(|(label, value)| format!(
            "{{label_equals: {{label: {label}, value: '{value}'}}}}"
        )),
        (label, "[xz]{1,2}").prop_map(|(label, regex)| format!(
            "{{label_matches: {{label: {label}, regex: '{regex}'}}}}"
        )),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let list = prop::collection::vec(inner.clone(), 0..3).prop_map(|all| all.join(", "));
        prop_oneof![
            inner.prop_map(|one| format!("{{not: {one}}}")),
            list.clone()
                .prop_map(|all| format!("{{all: {{of: [{all}]}}}}")),
            list.prop_map(|all| format!("{{any: {{of: [{all}]}}}}")),
        ]
    })
}

fn flows() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(("[abc]", "[xz]{0,2}"), 0..4)
}

fn holds(expression: &str, flow: &[(String, String)]) -> bool {
    let labels: Labels<'_> = flow
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    matcher(&format!("{{expression: {expression}}}")).matches(&labels)
}

proptest! {
    #[test]
    fn expressions_follow_boolean_logic(a in expressions(), b in expressions(), flow in flows()) {
        let (left, right) = (holds(&a, &flow), holds(&b, &flow));
        prop_assert_eq!(holds(&format!("{{not: {a}}}"), &flow), !left);
        prop_assert_eq!(holds(&format!("{{all: {{of: [{a}, {b}]}}}}"), &flow), left && right);
        prop_assert_eq!(holds(&format!("{{any: {{of: [{a}, {b}]}}}}"), &flow), left || right);
    }

    #[test]
    fn leaves_agree_with_the_labels(flow in flows(), value in "[xz]{1,2}") {
        let labels: Labels<'_> = flow.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let found = labels.get("a");
        prop_assert_eq!(holds("{label_exists: a}", &flow), found.is_some());
        let leaf = format!("{{label_equals: {{label: a, value: {value}}}}}");
        prop_assert_eq!(holds(&leaf, &flow), found == Some(&value));
        let leaf = format!("{{label_matches: {{label: a, regex: {value}}}}}");
        prop_assert_eq!(holds(&leaf, &flow), found.is_some_and(|found| found.contains(&value)));
    }
}
