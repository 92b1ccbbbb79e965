//! What a text becomes, and what is too much.

use std::rc::Rc;
use std::sync::Arc;

use super::{Kind, MAX_BYTES, Node, Value};
use crate::policy::PolicyError;

fn read(text: &str) -> Result<Rc<Node>, PolicyError> {
    super::read(&Arc::from("t.yaml"), text)
}

fn raw<'n>(node: &'n Node, key: &str) -> &'n str {
    match node.get(key).map(|entry| &entry.value.value) {
        Some(Value::Scalar { raw, .. }) => raw,
        _ => panic!("{key} is no scalar"),
    }
}

fn refusal(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

#[test]
fn places_are_counted_from_one_behind_a_mark_and_with_any_line_end() {
    for text in ["\u{feff}a: 1\nb:\n  c: 2\n", "a: 1\r\nb:\r\n  c: 2\r\n"] {
        let root = read(text).expect("text");
        let b = root.get("b").expect("b");
        assert_eq!(b.mark, (2, 1));
        let c = b.value.get("c").expect("c");
        assert_eq!((c.mark, c.value.mark), ((3, 3), (3, 6)));
    }
}

#[test]
fn a_merge_gives_way_to_own_keys_and_earlier_sources() {
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
fn a_key_written_twice_is_refused_with_both_lines() {
    let message = refusal("a:\n  b: 1\n  b: 2\n");
    assert_eq!(
        message,
        "t.yaml:3:3: a: the key `b` is written twice in this mapping, first in line 2"
    );
    assert!(refusal("a: {<<: {}, <<: {}}").contains("twice"));
}

#[test]
fn a_quoted_merge_sign_is_a_key() {
    let root = read("'<<': 1").expect("text");
    assert_eq!(raw(&root, "<<"), "1");
}

#[test]
fn hostile_texts_are_refused_within_bounds() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..40 {
        let before = format!("*a{}, ", i - 1).repeat(10);
        bomb.push_str(&format!("a{i}: &a{i} [{before}]\n"));
    }
    assert!(refusal(&bomb).contains("aliases written out"));
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
fn tags_of_yaml_itself_are_followed() {
    let root = read("a: !!str 5\nb: ! 5\nc: !!float '5'\nd: !!map {}\n").expect("text");
    let kind = |key| match root.get(key).map(|entry| &entry.value.value) {
        Some(Value::Scalar { kind, .. }) => Some(*kind),
        _ => None,
    };
    assert_eq!(kind("a"), Some(Kind::Text));
    assert_eq!(kind("b"), Some(Kind::Text));
    assert_eq!(kind("c"), Some(Kind::Number(5.0)));
    assert_eq!(kind("d"), None);
}
