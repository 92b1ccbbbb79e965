//! JSON documents: members by RFC 6901 pointers, values as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::value::RawValue;

/// Documents nested deeper than this make no label.
const MAX_DEPTH: usize = 128;

/// A JSON pointer (RFC 6901), split and unescaped; the empty one means the whole document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointer(Vec<Box<str>>);

impl Pointer {
    /// A text that is no pointer is `None`: the loader refuses it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(Vec::new()));
        }
        let steps = text.strip_prefix('/')?.split('/');
        steps.map(unescape).collect::<Option<_>>().map(Self)
    }

    /// The text of what the pointer leads to. `None` when that is missing, or the document is
    /// not JSON from its beginning to its end.
    pub(super) fn text(&self, document: &str) -> Option<String> {
        // Unparsed, because numbers are told as they are spelled.
        let mut value: &RawValue = serde_json::from_str(document).ok()?;
        for step in &self.0 {
            value = match kind(value) {
                // Of a key that is there twice the last one counts.
                b'{' => members(value)?.remove(&**step)?,
                b'[' => {
                    let index = index(step)?;
                    let mut items = items(value)?;
                    (index < items.len()).then(|| items.swap_remove(index))?
                }
                _ => return None,
            };
        }
        let mut text = String::new();
        render(value, MAX_DEPTH, &mut text)?;
        Some(text)
    }
}

/// `~1` is a slash and `~0` a tilde.
fn unescape(step: &str) -> Option<Box<str>> {
    let mut parts = step.split('~');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        plain.push(match part.as_bytes().first()? {
            b'0' => '~',
            b'1' => '/',
            _ => return None,
        });
        plain.push_str(&part[1..]);
    }
    Some(plain.into())
}

fn index(step: &str) -> Option<usize> {
    let digits = step.bytes().all(|byte| byte.is_ascii_digit());
    let zeros = step.len() > 1 && step.starts_with('0');
    if digits && !zeros {
        step.parse().ok()
    } else {
        None
    }
}

/// A raw value has no blanks around it and is never empty.
fn kind(value: &RawValue) -> u8 {
    value.get().bytes().next().unwrap_or(b'n')
}

fn members(value: &RawValue) -> Option<BTreeMap<String, &RawValue>> {
    serde_json::from_str(value.get()).ok()
}

fn items(value: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(value.get()).ok()
}

/// As upstream prints it: `[a b]`, `map[k:v l:w]` with sorted keys, `<nil>`.
fn render(value: &RawValue, depth: usize, text: &mut String) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    match kind(value) {
        b'{' => {
            text.push_str("map[");
            for (at, (key, value)) in members(value)?.into_iter().enumerate() {
                if at > 0 {
                    text.push(' ');
                }
                write!(text, "{key}:").ok()?;
                render(value, depth, text)?;
            }
            text.push(']');
        }
        b'[' => {
            text.push('[');
            for (at, value) in items(value)?.into_iter().enumerate() {
                if at > 0 {
                    text.push(' ');
                }
                render(value, depth, text)?;
            }
            text.push(']');
        }
        b'"' => text.push_str(&serde_json::from_str::<String>(value.get()).ok()?),
        b'n' => text.push_str("<nil>"),
        // Numbers and booleans, as they are spelled.
        _ => text.push_str(value.get()),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn text(document: &str, pointer: &str) -> Option<String> {
        Pointer::parse(pointer)?.text(document)
    }

    #[test]
    fn the_examples_of_the_rfc_hold() {
        let document = r#"{"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4,
            "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8}"#;
        for (pointer, value) in [
            ("/foo", "[bar baz]"),
            ("/foo/0", "bar"),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/c%d", "2"),
            ("/e^f", "3"),
            ("/g|h", "4"),
            ("/i\\j", "5"),
            ("/k\"l", "6"),
            ("/ ", "7"),
            ("/m~0n", "8"),
        ] {
            assert_eq!(text(document, pointer).as_deref(), Some(value), "{pointer}");
        }
        for pointer in [
            "foo", "/~", "/~2", "/foo/2", "/foo/-", "/foo/00", "/foo/+1", "/foo//",
        ] {
            assert_eq!(text(document, pointer), None, "{pointer}");
        }
    }

    #[test]
    fn values_are_told_as_they_are_spelled() {
        let document = r#" {"n": 1.50, "big": 12345678901234567890, "huge": 1e999, "z": null,
            "o": {"b": [], "a": {"x": true}}, "s": "\u00fc\n", "t": 1, "t": 2} "#;
        let of = |pointer| text(document, pointer);
        assert_eq!(of("/n").as_deref(), Some("1.50"));
        assert_eq!(of("/big").as_deref(), Some("12345678901234567890"));
        assert_eq!(of("/huge").as_deref(), Some("1e999"));
        assert_eq!(of("/z").as_deref(), Some("<nil>"));
        assert_eq!(of("/o").as_deref(), Some("map[a:map[x:true] b:[]]"));
        assert_eq!(of("/s").as_deref(), Some("\u{fc}\n"));
        assert_eq!(of("/t").as_deref(), Some("2"));
    }

    #[test]
    fn what_is_not_one_document_has_no_text() {
        for document in ["", "{", "{} {}", "nul", "{\"a\":1,}", "\u{feff}{}"] {
            assert_eq!(text(document, ""), None, "{document:?}");
        }
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        assert_eq!(text(&deep, ""), None);
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c~/ ]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c~/01]{0,2}", inner, 0..4)
                    .prop_map(|map| json!(map)),
            ]
        })
    }

    fn places(value: &Value, path: &str, all: &mut Vec<String>) {
        all.push(path.to_owned());
        match value {
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    places(item, &format!("{path}/{at}"), all);
                }
            }
            Value::Object(members) => {
                for (key, member) in members {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    places(member, &format!("{path}/{key}"), all);
                }
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn a_pointer_leads_where_it_leads_others(
            document in documents(),
            stray in "(/[a-c~01]{0,2}){0,3}",
        ) {
            let spelled = document.to_string();
            let mut pointers = Vec::new();
            places(&document, "", &mut pointers);
            for pointer in &pointers {
                let there = document.pointer(pointer).map(Value::to_string);
                let whole = text(&there.expect("it is there"), "");
                prop_assert!(whole.is_some());
                prop_assert_eq!(text(&spelled, pointer), whole);
            }
            // A pointer that is malformed leads nowhere here, and somewhere there.
            if let Some(pointer) = Pointer::parse(&stray) {
                let there = document.pointer(&stray).map(Value::to_string);
                prop_assert_eq!(pointer.text(&spelled).is_some(), there.is_some());
            }
        }

        #[test]
        fn any_text_is_survived(document in "[\\[\\]{}\",:0-9a-z\\\\ ]{0,40}", pointer in "[/~01a]{0,6}") {
            let _ = text(&document, &pointer);
        }
    }
}
