//! Reads members of JSON documents by RFC 6901 pointers, and formats values as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::value::RawValue;

/// The maximum nesting depth; deeper documents set no label.
const MAX_DEPTH: usize = 128;

/// A JSON pointer (RFC 6901), split and unescaped; the empty pointer refers to the whole document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JsonPointer(Vec<Box<str>>);

impl JsonPointer {
    /// Returns `None` for a text that is not a pointer; the loader refuses such a policy.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(Vec::new()));
        }
        let steps = text.strip_prefix('/')?.split('/');
        steps.map(unescape).collect::<Option<_>>().map(Self)
    }

    /// Returns the text of the value that the pointer refers to. `None` if the value does not
    /// exist, or if the whole text is not a JSON document.
    ///
    /// The document is read once for each step, and the value once more.
    pub(super) fn text(&self, document: &str) -> Option<String> {
        let checked: &RawValue = serde_json::from_str(document).ok()?;
        let mut value = JsonReader(checked.get());
        for step in &self.0 {
            value = match value.peek()? {
                b'{' => value.member(step)?,
                b'[' => value.item(index(step)?)?,
                _ => return None,
            };
        }
        let mut text = String::new();
        value.render(MAX_DEPTH, &mut text)?;
        Some(text)
    }
}

/// Replaces `~1` with a slash and `~0` with a tilde.
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

/// Reads a document that is known to be valid JSON, from front to back.
#[derive(Clone, Copy)]
struct JsonReader<'a>(&'a str);

impl<'a> JsonReader<'a> {
    /// Returns the first byte after white space, without consuming it.
    fn peek(&mut self) -> Option<u8> {
        self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
        self.0.bytes().next()
    }

    fn advance(&mut self, bytes: usize) -> Option<&'a str> {
        #[cfg(test)]
        tests::READ_BYTES.set(tests::READ_BYTES.get() + bytes);
        let (consumed, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(consumed)
    }

    /// Consumes a byte if it comes next. Returns true if it did.
    fn consume(&mut self, byte: u8) -> bool {
        self.peek() == Some(byte) && self.advance(1).is_some()
    }

    /// Consumes a string with its quotes.
    fn quoted(&mut self) -> Option<&'a str> {
        let mut bytes = self.0.bytes().enumerate().skip(1);
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => return self.advance(at + 1),
                b'\\' => drop(bytes.next()),
                _ => {}
            }
        }
        None
    }

    fn string(&mut self) -> Option<String> {
        serde_json::from_str(self.quoted()?).ok()
    }

    /// Consumes a number, a boolean or `null`.
    fn scalar(&mut self) -> Option<&'a str> {
        let ends = |byte: u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
        let length = self.0.bytes().position(ends).unwrap_or(self.0.len());
        self.advance(length)
    }

    /// Consumes a value of any kind and depth.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'{' | b'[' => {
                    self.advance(1)?;
                    depth += 1;
                }
                b'}' | b']' => {
                    self.advance(1)?;
                    depth = depth.checked_sub(1)?;
                }
                b'"' => drop(self.quoted()?),
                b',' | b':' => drop(self.advance(1)?),
                _ => drop(self.scalar()?),
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Moves to the value of the last member with this key.
    fn member(mut self, key: &str) -> Option<Self> {
        let mut found = None;
        self.consume(b'{');
        while !self.consume(b'}') {
            self.peek()?;
            let name = self.string()?;
            self.consume(b':');
            if name == key {
                found = Some(self);
            }
            self.skip()?;
            self.consume(b',');
        }
        found
    }

    /// Moves to an item of an array.
    fn item(mut self, index: usize) -> Option<Self> {
        self.consume(b'[');
        for _ in 0..index {
            if self.peek()? == b']' {
                return None;
            }
            self.skip()?;
            self.consume(b',');
        }
        (self.peek()? != b']').then_some(self)
    }

    /// Formats a value as upstream does: `[a b]`, `map[k:v l:w]` with sorted keys, `<nil>`, and
    /// numbers and booleans with their spelling.
    fn render(&mut self, depth: usize, text: &mut String) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match self.peek()? {
            b'{' => self.render_object(depth, text)?,
            b'[' => {
                self.advance(1)?;
                text.push('[');
                let mut first = true;
                while !self.consume(b']') {
                    if !std::mem::take(&mut first) {
                        text.push(' ');
                    }
                    self.render(depth, text)?;
                    self.consume(b',');
                }
                text.push(']');
            }
            b'"' => text.push_str(&self.string()?),
            b'n' => {
                self.scalar()?;
                text.push_str("<nil>");
            }
            _ => text.push_str(self.scalar()?),
        }
        Some(())
    }

    /// Formats the members in document order, and then sorts them if needed: an object is copied at
    /// most once for each object around it.
    fn render_object(&mut self, depth: usize, text: &mut String) -> Option<()> {
        self.advance(1)?;
        text.push_str("map[");
        let begin = text.len();
        // Each key with the end of its text.
        let mut members: Vec<(String, usize)> = Vec::new();
        let mut sorted = true;
        while !self.consume(b'}') {
            if !members.is_empty() {
                text.push(' ');
            }
            self.peek()?;
            let key = self.string()?;
            self.consume(b':');
            write!(text, "{key}:").ok()?;
            self.render(depth, text)?;
            self.consume(b',');
            sorted &= members.last().is_none_or(|(last, _)| *last < key);
            members.push((key, text.len()));
        }
        if !sorted {
            let printed = text.split_off(begin);
            let mut from = 0;
            // The last member of a repeated key counts.
            let members: BTreeMap<String, &str> = members
                .into_iter()
                .map(|(key, end)| {
                    let member = &printed[from..end - begin];
                    from = end - begin + 1;
                    (key, member)
                })
                .collect();
            for (at, member) in members.values().enumerate() {
                if at > 0 {
                    text.push(' ');
                }
                text.push_str(member);
            }
        }
        text.push(']');
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    thread_local! {
        /// Counts the bytes of documents that this thread has read.
        pub(super) static READ_BYTES: Cell<usize> = const { Cell::new(0) };
    }

    fn text(document: &str, pointer: &str) -> Option<String> {
        JsonPointer::parse(pointer)?.text(document)
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
    fn values_keep_their_spelling() {
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
    fn a_text_that_is_not_one_document_has_no_value() {
        for document in ["", "{", "{} {}", "nul", "{\"a\":1,}", "\u{feff}{}"] {
            assert_eq!(text(document, ""), None, "{document:?}");
        }
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        assert_eq!(text(&deep, ""), None);
    }

    #[test]
    fn a_document_that_is_nested_deeply_is_read_once() {
        // 8 MiB of nested arrays, and 2 MiB within as many levels as may set a label.
        let deep = 1 << 22;
        let lists = "[".repeat(deep) + &"]".repeat(deep);
        let wide = format!(
            "{}{}1{}",
            r#"{"b":1,"a":"#.repeat(100),
            "[1,".repeat(20) + &"1,".repeat(1 << 20),
            "]".repeat(20) + &"}".repeat(100)
        );
        let read_bytes = |document: &str, pointer: &str| {
            READ_BYTES.set(0);
            let value = text(document, pointer);
            (value, READ_BYTES.get())
        };
        for (document, pointer, exists) in [
            (&lists, "", false),
            (&lists, "/0/0", false),
            (&wide, "", true),
            (&wide, "/a/a/a", true),
        ] {
            let (value, read) = read_bytes(document, pointer);
            assert_eq!(value.is_some(), exists, "{pointer:?}");
            // Each step and the value read it once. Reading it at each level would be 100 times more.
            let times = pointer.split('/').count() + 1;
            assert!(read <= times * document.len(), "{pointer:?}: {read} bytes");
        }
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

    fn all_pointers(value: &Value, path: &str, all: &mut Vec<String>) {
        all.push(path.to_owned());
        match value {
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    all_pointers(item, &format!("{path}/{at}"), all);
                }
            }
            Value::Object(members) => {
                for (key, member) in members {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    all_pointers(member, &format!("{path}/{key}"), all);
                }
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn a_pointer_resolves_as_in_serde_json(
            document in documents(),
            stray in "(/[a-c~01]{0,2}){0,3}",
        ) {
            let spelled = document.to_string();
            let mut pointers = Vec::new();
            all_pointers(&document, "", &mut pointers);
            for pointer in &pointers {
                let resolved = document.pointer(pointer).map(Value::to_string);
                let whole = text(&resolved.expect("the pointer resolves"), "");
                prop_assert!(whole.is_some());
                prop_assert_eq!(text(&spelled, pointer), whole);
            }
            // `JsonPointer` refuses a malformed pointer, which `serde_json` may resolve.
            if let Some(pointer) = JsonPointer::parse(&stray) {
                let resolved = document.pointer(&stray).map(Value::to_string);
                prop_assert_eq!(pointer.text(&spelled).is_some(), resolved.is_some());
            }
        }

        #[test]
        fn any_text_is_accepted_without_panic(document in "[\\[\\]{}\",:0-9a-z\\\\ ]{0,40}", pointer in "[/~01a]{0,6}") {
            let _ = text(&document, &pointer);
        }
    }
}
