//! Values in the form of the recordings, and their comparison.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::ComparisonResult;

pub(super) fn number(value: f64) -> Value {
    if value.is_nan() {
        json!("NaN")
    } else if value.is_infinite() {
        json!(if value > 0.0 { "+Inf" } else { "-Inf" })
    } else {
        json!(value)
    }
}

pub(super) fn duration(duration: Duration) -> Value {
    json!(format!("{}s", duration.as_secs_f64()))
}

/// Replaces a negative duration by zero, as the loader does.
pub(super) fn not_negative(value: &mut Value, key: &str) {
    if value[key]
        .as_str()
        .is_some_and(|text| text.starts_with('-'))
    {
        value[key] = json!("0s");
    }
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

pub(super) fn without(value: &Value, keys: &[&str]) -> Value {
    let fields = value.as_object().cloned().unwrap_or_default();
    Value::Object(
        fields
            .into_iter()
            .filter(|(key, _)| !keys.contains(&&**key))
            .collect(),
    )
}

/// Returns the value without its empty parts, with numbers, durations and codes in one spelling
/// each.
pub(super) fn pruned(value: &Value) -> Value {
    match value {
        Value::Array(items) => {
            let items = items.iter().map(pruned).filter(|item| !empty(item));
            Value::Array(items.collect())
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| match (&**key, value) {
                ("denied_response_status_code", Value::String(name)) => (
                    key.clone(),
                    json!(crate::policy::status_code::code_of_name(name)),
                ),
                _ => (key.clone(), pruned(value)),
            });
            Value::Object(
                fields
                    .filter(|(_, value)| !empty(value))
                    .collect::<Map<_, _>>(),
            )
        }
        Value::Number(number) => json!(number.as_f64()),
        Value::String(text) => match text.strip_suffix('s').map(str::parse::<f64>) {
            Some(Ok(seconds)) => json!(format!("{seconds}s")),
            _ => value.clone(),
        },
        other => other.clone(),
    }
}

pub(super) fn same(what: &str, ours: &Value, theirs: &Value) -> ComparisonResult {
    let (ours, theirs) = (pruned(ours), pruned(theirs));
    // A status code is a float on only one side after pruning.
    let text = |value: &Value| value.to_string().replace(".0", "");
    if text(&ours) == text(&theirs) {
        return Ok(());
    }
    Err(format!("{what}: {ours}, recorded {theirs}"))
}
