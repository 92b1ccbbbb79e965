//! Formats values of Rego as values of labels.

use std::fmt::Write as _;

use regorus::Value;

use super::MAX_VALUE_BYTES;

/// The deepest nesting of a value. A value that nests deeper sets no label.
const MAX_DEPTH: usize = 128;

/// Returns the text that an Agent makes of a value: `[a b]` for arrays and sets, `map[k:v l:w]` for
/// objects with sorted keys, `<nil>` for null. Numbers are formatted in decimal in their shortest
/// form, whereas an Agent keeps them as they are written in the module.
///
/// Returns `None` if the text is longer than [`MAX_VALUE_BYTES`] or the value nests too deeply.
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
            // Checked before the text is copied.
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
