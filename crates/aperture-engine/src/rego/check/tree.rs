//! Reads names, paths and positions from the parsed tree of a module.

use std::ops::Range;

use serde_json::Value;

/// Returns a rule and its head.
pub(super) fn spec_and_head(tree: &Value) -> (&Value, &Value) {
    let spec = tree.get("Spec").or_else(|| tree.get("Default"));
    let spec = spec.unwrap_or(&Value::Null);
    let head = spec["head"]
        .as_object()
        .and_then(|head| head.values().next());
    (spec, head.unwrap_or(spec))
}

/// Returns the name of a rule: `a`, or `a.b` for a rule that defines a member of `a`.
pub(super) fn head_name(head: &Value) -> Option<String> {
    let refr = &head["refr"];
    path(refr).or_else(|| path(&refr["RefBrack"]["refr"]))
}

/// Returns a path such as `a.b.c`, also if it is written as `a["b"].c`. `None` for other
/// expressions.
pub(super) fn path(tree: &Value) -> Option<String> {
    if let Some(name) = tree["Var"]["value"].as_str() {
        return Some(name.to_owned());
    }
    if let Some(refr) = tree.get("RefDot") {
        let field = refr["field"][1].as_str()?;
        return Some(format!("{}.{field}", path(&refr["refr"])?));
    }
    let refr = tree.get("RefBrack")?;
    let field = refr["index"]["String"]["value"].as_str()?;
    Some(format!("{}.{field}", path(&refr["refr"])?))
}

/// Collects the variables that an expression of a head needs, without those that an index or a
/// comprehension binds itself.
pub(super) fn head_variables(tree: &Value, found: &mut Vec<(String, (u64, u64))>) {
    match tree {
        Value::Array(items) => items.iter().for_each(|item| head_variables(item, found)),
        Value::Object(fields) => {
            for (key, value) in fields {
                match &**key {
                    "Var" => {
                        let name = value["value"].as_str().unwrap_or_default();
                        found.push((name.to_owned(), position(value)));
                    }
                    "ArrayCompr" | "SetCompr" | "ObjectCompr" => {}
                    "RefBrack" => head_variables(&value["refr"], found),
                    "Call" => head_variables(&value["params"], found),
                    _ => head_variables(value, found),
                }
            }
        }
        _ => {}
    }
}

/// Returns the bytes of the module that a span covers.
pub(super) fn span_bytes(span: &Value) -> Option<Range<usize>> {
    let end = |key: &str| usize::try_from(span[key].as_u64()?).ok();
    Some(end("start")?..end("end")?)
}

/// Returns the text of a span.
pub(super) fn span_text<'m>(span: &Value, source: &'m str) -> Option<&'m str> {
    source.get(span_bytes(span)?)
}

/// Returns the line and column of an expression.
pub(super) fn position(tree: &Value) -> (u64, u64) {
    let number = |key: &str| tree["span"][key].as_u64().unwrap_or(1);
    (number("line"), number("col"))
}
