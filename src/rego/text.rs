//! Values of Rego as the text of a label.

use std::fmt::Write as _;

use regorus::Value;

use super::MAX_VALUE_BYTES;

/// Values nested deeper make no label.
const MAX_DEPTH: usize = 128;

/// Returns the text that an Agent prints for a value: `[a b]` for arrays and sets, `map[k:v l:w]`
/// for objects with sorted keys, `<nil>` for null. Numbers are written in decimal, in their
/// shortest form (an Agent keeps their spelling).
///
/// `None` when the text is longer than [`MAX_VALUE_BYTES`] or the value is nested too deeply.
pub(super) fn render(value: &Value) -> Option<String> {
    let mut text = String::new();
    write_value(value, MAX_DEPTH, &mut text)?;
    Some(text)
}

fn write_value(value: &Value, depth: usize, text: &mut String) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::Null => text.push_str("<nil>"),
        Value::Bool(value) => write!(text, "{value}").ok()?,
        Value::Number(_) => write!(text, "{value}").ok()?,
        Value::String(value) => {
            // Before it is copied.
            if value.len() > MAX_VALUE_BYTES {
                return None;
            }
            text.push_str(value);
        }
        Value::Array(items) => write_list(items.iter(), depth, text)?,
        Value::Set(items) => write_list(items.iter(), depth, text)?,
        Value::Object(members) => {
            text.push_str("map[");
            for (at, (key, value)) in members.iter_sorted().enumerate() {
                if at > 0 {
                    text.push(' ');
                }
                write_value(key, depth, text)?;
                text.push(':');
                write_value(value, depth, text)?;
            }
            text.push(']');
        }
        Value::Undefined => {}
    }
    (text.len() <= MAX_VALUE_BYTES).then_some(())
}

fn write_list<'v>(
    items: impl Iterator<Item = &'v Value>,
    depth: usize,
    text: &mut String,
) -> Option<()> {
    text.push('[');
    for (at, item) in items.enumerate() {
        if at > 0 {
            text.push(' ');
        }
        write_value(item, depth, text)?;
    }
    text.push(']');
    Some(())
}
