//! Compares decoded policies with the summaries in the recordings.

mod components;
mod resources;
mod selectors;
mod values;

use serde_json::{Value, json};

use self::components::compare_component;
use self::resources::{compare_classifier, compare_meter};
use self::values::{duration, list, same};
use crate::policy::{Op, Policy};

type ComparisonResult = Result<(), String>;

/// Compares a decoded policy with the recorded summary.
pub(super) fn compare(policy: &Policy, summary: &Value) -> ComparisonResult {
    let recorded = list(&summary["flow_control"]);
    let ids = |value: &Value| {
        value["component_id"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let ours: Vec<String> = policy
        .components
        .iter()
        .map(|one| one.id.to_string())
        .collect();
    let theirs: Vec<String> = recorded.iter().map(ids).collect();
    same("components", &json!(ours), &json!(theirs))?;
    for (component, recorded) in policy.components.iter().zip(recorded) {
        compare_component(policy, component, recorded)
            .map_err(|wrong| format!("{}: {wrong}", component.id))?;
    }
    compare_generators(policy, list(&summary["signal_generators"]))?;
    let classifiers = list(&summary["classifiers"]);
    same(
        "classifiers",
        &json!(policy.classifiers.len()),
        &json!(classifiers.len()),
    )?;
    for (ours, theirs) in policy.classifiers.iter().zip(classifiers) {
        compare_classifier(ours, theirs)?;
    }
    let meters = summary["flux_meters"].as_object();
    let mut names: Vec<&str> = policy
        .flux_meters
        .iter()
        .map(|meter| &*meter.name)
        .collect();
    names.sort_unstable();
    let mut recorded: Vec<&str> = meters
        .into_iter()
        .flatten()
        .map(|(name, _)| &**name)
        .collect();
    recorded.sort_unstable();
    same("flux meters", &json!(names), &json!(recorded))?;
    for meter in &policy.flux_meters {
        compare_meter(meter, &summary["flux_meters"][&*meter.name])?;
    }
    Ok(())
}

fn compare_generators(policy: &Policy, recorded: &[Value]) -> ComparisonResult {
    for generator in recorded {
        let id = generator["component_id"].as_str().unwrap_or_default();
        let nodes = policy.circuit.as_ref().map(|circuit| &circuit.nodes);
        let node = nodes.into_iter().flatten().find(|node| &*node.id == id);
        // A generator that never moves is folded to a constant.
        let Some(node) = node else { continue };
        let Op::SignalGenerator { steps } = &node.op else {
            return Err(format!("{id}: {:?}", node.op));
        };
        let ours: Vec<Value> = steps
            .iter()
            .map(|step| {
                json!({
                    "duration": duration(step.duration),
                    "target_output": {"value": step.target_accept_percentage},
                })
            })
            .collect();
        same("steps", &json!(ours), &generator["steps"])?;
    }
    Ok(())
}
