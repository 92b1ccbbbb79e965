//! Reads from a policy's text two values that the engine does not report: its name and the fill
//! rate of each bucket.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser};
use serde_json::{Map, Value};

/// Parses a YAML text to JSON with all scalars as texts, without checking that the policy is valid.
fn parse(text: &str) -> Option<Value> {
    enum Open {
        List(usize, Vec<Value>),
        Map(usize, Map<String, Value>, Option<String>),
    }
    let mut open: Vec<Open> = Vec::new();
    let mut anchors: BTreeMap<usize, Value> = BTreeMap::new();
    for event in Parser::new_from_str(text) {
        let (anchor, value) = match event.ok()?.0 {
            Event::Scalar(text, _, anchor, _) => (anchor, Value::String(text.into_owned())),
            Event::Alias(anchor) => (0, anchors.get(&anchor).cloned()?),
            Event::SequenceStart(anchor, _) => {
                open.push(Open::List(anchor, Vec::new()));
                continue;
            }
            Event::MappingStart(anchor, _) => {
                open.push(Open::Map(anchor, Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop()? {
                Open::List(anchor, values) => (anchor, Value::Array(values)),
                Open::Map(anchor, map, _) => (anchor, Value::Object(map)),
            },
            _ => continue,
        };
        if anchor > 0 {
            anchors.insert(anchor, value.clone());
        }
        match open.last_mut() {
            None => return Some(value),
            Some(Open::List(_, values)) => values.push(value),
            Some(Open::Map(_, map, key)) => match key.take() {
                None => *key = Some(value.as_str().unwrap_or_default().to_owned()),
                Some(key) => {
                    map.insert(key, value);
                }
            },
        }
    }
    None
}

/// Returns `metadata.name`.
pub(crate) fn name(text: &str) -> Option<String> {
    let value = parse(text)?;
    Some(value["metadata"]["name"].as_str()?.to_owned())
}

/// Tokens per second of each bucket, by policy name and component id.
#[derive(Default)]
pub(crate) struct Rates(BTreeMap<(String, String), f64>);

impl Rates {
    pub(crate) fn of(policies: &[String]) -> Self {
        let mut rates = Self::default();
        for value in policies.iter().filter_map(|text| parse(text)) {
            let name = value["metadata"]["name"].as_str().unwrap_or_default();
            walk(&value, &mut |id, kind, component| {
                let Some(rate) = rate(kind, component, &value) else {
                    return;
                };
                rates.0.insert((name.to_owned(), id.to_owned()), rate);
            });
        }
        rates
    }

    /// Returns the rate of a component, or the highest rate if the component is unknown.
    pub(crate) fn get(&self, policy: &str, component: &str) -> f64 {
        let key = (policy.to_owned(), component.to_owned());
        let fastest = || self.0.values().copied().fold(0.0, f64::max);
        self.0.get(&key).copied().unwrap_or_else(fastest)
    }
}

fn rate(kind: &str, component: &Value, policy: &Value) -> Option<f64> {
    let parameters = match kind {
        "rate_limiter" => &component["parameters"],
        "quota_scheduler" => &component["rate_limiter"],
        _ => return None,
    };
    let interval: f64 = number(parameters["interval"].as_str()?.strip_suffix('s')?)?;
    let fill = &component["in_ports"]["fill_amount"];
    let fill = match fill["constant_signal"]["value"].as_str() {
        Some(value) => number(value)?,
        // The signal may have the value of any constant in the policy.
        None => largest(policy),
    };
    Some(fill.abs() / interval)
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

fn largest(value: &Value) -> f64 {
    match value {
        Value::Array(values) => values.iter().map(largest).fold(0.0, f64::max),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| match (key.as_str(), value.as_str()) {
                ("value", Some(text)) => number(text).unwrap_or(0.0).abs(),
                _ => largest(value),
            })
            .fold(0.0, f64::max),
        _ => 0.0,
    }
}

/// Visits each component with its id, kind and content.
fn walk(policy: &Value, visit: &mut impl FnMut(&str, &str, &Value)) {
    let spec = if policy["spec"].is_null() {
        policy
    } else {
        &policy["spec"]
    };
    walk_list("root", &spec["circuit"]["components"], visit);
}

fn walk_list(prefix: &str, components: &Value, visit: &mut impl FnMut(&str, &str, &Value)) {
    let components = components.as_array().map(Vec::as_slice).unwrap_or_default();
    for (at, component) in components.iter().enumerate() {
        let id = format!("{prefix}.{at}");
        let component = match component.get("flow_control") {
            Some(component) => component,
            None => component,
        };
        for (kind, content) in component.as_object().into_iter().flatten() {
            visit(&id, kind, content);
            if kind == "nested_circuit" {
                walk_list(&id, &content["components"], visit);
            }
        }
    }
}
