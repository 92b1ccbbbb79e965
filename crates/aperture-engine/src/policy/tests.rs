//! Tests of loading policies, and the helpers that they share.

mod blueprints;
mod circuits;
mod components;
mod descriptions;
mod hostile;
mod loading;
mod loops;
mod matchers;
mod recordings;
mod summary;

use serde_json::{Map, Value, json};

use super::{
    ComponentKind, Extractor, LoadedPolicy, Port, RateLimiter, Signal, load, passes_through,
};

/// Returns a policy with one rate limiter, modified by `change`.
fn limiter(change: impl Fn(String) -> String) -> String {
    change(
        "circuit:
  components:
    - flow_control:
        rate_limiter:
          in_ports:
            bucket_capacity: {constant_signal: {value: 2}}
            fill_amount: {constant_signal: {value: 1}}
          parameters: {interval: 30s}
          selectors: [{control_point: shop}]
"
        .to_owned(),
    )
}

fn replaced(from: &str, to: &str) -> String {
    limiter(|text| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    })
}

fn loaded(text: &str) -> LoadedPolicy {
    load("p.yaml", text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refused(text: &str) -> String {
    match load("p.yaml", text) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("not refused:\n{text}"),
    }
}

fn warnings(text: &str) -> Vec<String> {
    let warnings = loaded(text).warnings;
    warnings.iter().map(ToString::to_string).collect()
}

fn only_limiter(text: &str) -> RateLimiter {
    let components = loaded(text).policy.components;
    assert_eq!(components.len(), 1, "{text}");
    let ComponentKind::RateLimiter(limiter) = &components[0].kind else {
        panic!("{text}");
    };
    limiter.clone()
}

/// Returns an extractor in the form of a policy.
fn extractor_json(extractor: Option<&Extractor>) -> Value {
    match extractor {
        None => Value::Null,
        Some(Extractor::From(from)) => json!({"from": &**from}),
        Some(Extractor::Json { from, pointer }) => {
            json!({"json": {"from": &**from, "pointer": &**pointer}})
        }
        Some(Extractor::Jwt { from, pointer }) => {
            json!({"jwt": {"from": &**from, "json_pointer": &**pointer}})
        }
        Some(Extractor::Address { from }) => json!({"address": {"from": &**from}}),
        Some(Extractor::PathTemplates(templates)) => {
            let values = templates
                .iter()
                .map(|(template, value)| (template.to_string(), json!(&**value)));
            json!({"path_templates": {"template_values": values.collect::<Map<_, _>>()}})
        }
    }
}

/// Returns the value of a port that never changes.
fn constant(port: Port) -> Signal {
    match port {
        Port::Constant(value) => value,
        Port::Changing(_) => panic!("the signal changes"),
    }
}

fn capacity(text: &str) -> Signal {
    constant(only_limiter(text).bucket.bucket_capacity)
}

fn is_open(limiter: &RateLimiter) -> bool {
    let bucket = &limiter.bucket;
    passes_through(
        constant(bucket.bucket_capacity),
        constant(bucket.fill_amount),
        constant(bucket.pass_through),
    )
}
