//! Tests of the YAML tree: positions, merges, tags and limits.

use std::rc::Rc;
use std::sync::Arc;

use super::{MAX_BYTES, ScalarKind, YamlNode, YamlValue};
use crate::policy::PolicyError;

fn read(text: &str) -> Result<Rc<YamlNode>, PolicyError> {
    super::read(&Arc::from("t.yaml"), text)
}

fn raw<'n>(node: &'n YamlNode, key: &str) -> &'n str {
    match node.get(key).map(|entry| &entry.value.value) {
        Some(YamlValue::Scalar { raw, .. }) => raw,
        _ => panic!("{key} is not a scalar"),
    }
}

fn refusal(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

#[test]
fn positions_count_from_one_with_byte_order_mark_and_any_line_end() {
    for text in ["\u{feff}a: 1\nb:\n  c: 2\n", "a: 1\r\nb:\r\n  c: 2\r\n"] {
        let root = read(text).expect("text");
        let b = root.get("b").expect("b");
        assert_eq!(b.position, (2, 1));
        let c = b.value.get("c").expect("c");
        assert_eq!((c.position, c.value.position), ((3, 3), (3, 6)));
    }
}

#[test]
fn own_keys_and_earlier_sources_take_precedence_in_a_merge() {
    let root = read(
        "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz: {<<: [*x, *y], a: 0}\nw: {a: 9, <<: *x}\n",
    )
    .expect("text");
    let z = &root.get("z").expect("z").value;
    assert_eq!((raw(z, "a"), raw(z, "b"), raw(z, "c")), ("0", "2", "4"));
    let w = &root.get("w").expect("w").value;
    assert_eq!((raw(w, "a"), raw(w, "b")), ("9", "2"));
}

#[test]
fn duplicate_keys_are_refused_with_both_lines() {
    let message = refusal("a:\n  b: 1\n  b: 2\n");
    assert_eq!(
        message,
        "t.yaml:3:3: a: the key `b` is written twice in this mapping; the first is in line 2"
    );
    assert!(refusal("a: {<<: {}, <<: {}}").contains("twice"));
}

#[test]
fn quoted_merge_sign_is_a_plain_key() {
    let root = read("'<<': 1").expect("text");
    assert_eq!(raw(&root, "<<"), "1");
}

#[test]
fn texts_over_a_limit_are_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..40 {
        let before = format!("*a{}, ", i - 1).repeat(10);
        bomb.push_str(&format!("a{i}: &a{i} [{before}]\n"));
    }
    assert!(refusal(&bomb).contains("aliases expanded"));
    let mut merges = String::from("a0: &a0 {x: 1}\n");
    for i in 1..400 {
        merges.push_str(&format!("a{i}: &a{i} {{<<: *a{}, k{i}: 1}}\n", i - 1));
    }
    assert!(read(&merges).is_ok() || refusal(&merges).contains("aliases"));
    assert!(refusal(&"- ".repeat(5000)).contains("deeper"));
    assert!(refusal(&"[".repeat(200)).contains("deeper"));
    assert!(refusal(&"{a: ".repeat(200)).contains("deeper"));
    assert!(refusal(&"x".repeat(MAX_BYTES + 1)).contains("too many"));
    assert!(refusal("a: &a [*a]").contains("itself"));
    assert!(refusal("a: *b").contains("not valid YAML"));
    assert!(refusal("a: 1\0\nb: 2").contains("control"));
    assert!(refusal("a: 1\n---\nb: 1").contains("second"));
    assert!(refusal("").contains("no YAML"));
    assert!(refusal("# nothing\n").contains("no YAML"));
    assert!(refusal("{[a]: 1}").contains("key must be text"));
    assert!(refusal("a: {<<: 5}").contains("takes a mapping"));
    assert!(refusal("a: !secret x").contains("tag"));
    assert!(refusal("a: !!int x").contains("!!int"));
}

#[test]
fn core_schema_tags_are_applied() {
    let root = read("a: !!str 5\nb: ! 5\nc: !!float '5'\nd: !!map {}\n").expect("text");
    let kind = |key| match root.get(key).map(|entry| &entry.value.value) {
        Some(YamlValue::Scalar { kind, .. }) => Some(*kind),
        _ => None,
    };
    assert_eq!(kind("a"), Some(ScalarKind::Text));
    assert_eq!(kind("b"), Some(ScalarKind::Text));
    assert_eq!(kind("c"), Some(ScalarKind::Number(5.0)));
    assert_eq!(kind("d"), None);
}
