//! Reads the YAML of `packaging/` as JSON values.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// A list or mapping that is not complete.
enum Open {
    List(Vec<Value>),
    Mapping(Map<String, Value>, Option<String>),
}

/// Returns the value of a text of one document, without anchors and tags.
pub(crate) fn parse(text: &str) -> Value {
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.expect("valid YAML");
        let value = match event {
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Mapping(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items)) => Value::Array(items),
                Some(Open::Mapping(members, None)) => Value::Object(members),
                _ => panic!("line {}: a key without a value", span.start.line()),
            },
            // Only plain scalars may be numbers or truth values.
            Event::Scalar(text, ScalarStyle::Plain, ..) => match serde_json::from_str(&text) {
                Ok(value @ (Value::Bool(_) | Value::Number(_) | Value::Null)) => value,
                _ => text.into_owned().into(),
            },
            Event::Scalar(text, ..) => text.into_owned().into(),
            Event::Alias(_) => panic!("line {}: an alias", span.start.line()),
            _ => continue,
        };
        match open.last_mut() {
            None => assert!(root.replace(value).is_none(), "a second document"),
            Some(Open::List(items)) => items.push(value),
            Some(Open::Mapping(members, key)) => match key.take() {
                Some(key) => {
                    let twice = members.insert(key, value);
                    assert!(twice.is_none(), "line {}: a key twice", span.start.line());
                }
                None => *key = Some(value.as_str().expect("a key is text").to_owned()),
            },
        }
    }
    root.expect("a document")
}
