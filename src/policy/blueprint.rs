//! Blueprints: a values file stands for a whole policy.

use std::time::Duration;

use super::PolicyError;
use super::circuit::Circuit;
use super::components::{self, Place, Wired, alerter, decider};
use super::decode::At;
use super::document::{EVALUATION_INTERVAL, find, finish};
use super::model::{Comparison, Policy};
use super::ports::{self, OutPort};
use super::resources::Resources;
use super::suggest::hint;
use super::yaml::shortened;

/// Reads the values below `policy`.
type Expand = for<'t> fn(At<'t>) -> Result<Policy, PolicyError>;

type Known = &'static [&'static str];

/// Blueprints; without a reader, they are refused by name.
const BLUEPRINTS: &[(&str, Option<Expand>)] = &[
    ("rate-limiting/base", Some(rate_limiting)),
    ("quota-scheduling/base", Some(quota_scheduling)),
    ("concurrency-limiting/base", Some(concurrency_limiting)),
    ("concurrency-scheduling/base", Some(concurrency_scheduling)),
    ("load-scheduling/average-latency", None),
    ("load-scheduling/promql", None),
    ("load-scheduling/postgresql", None),
    ("load-scheduling/elasticsearch", None),
    ("load-scheduling/java-gc-generic", None),
    ("load-scheduling/java-gc-k8s", None),
    ("load-scheduling/cpu-overload-protection-k8s", None),
    ("load-ramping/base", None),
];

/// What a generated values file holds where the user must write something.
const PLACEHOLDER: &str = "__REQUIRED_FIELD__";

pub(super) fn expand(at: At<'_>, text: &str) -> Result<Policy, PolicyError> {
    if let Some(mark) = find(text, PLACEHOLDER) {
        return Err(at.error_in_text(mark, format!("`{PLACEHOLDER}`: put a value there")));
    }
    let fields = at.object(&["blueprint", "uri", "policy"])?;
    let blueprint = fields.required("blueprint")?;
    let name = blueprint.text()?;
    fields.text("uri")?;
    let Some((_, reader)) = BLUEPRINTS.iter().find(|(known, _)| *known == name) else {
        let hint = hint(name, BLUEPRINTS.iter().map(|(known, _)| *known));
        let shown = shortened(name);
        return Err(blueprint.error(format!("unknown blueprint `{shown}`{hint}")));
    };
    let Some(reader) = reader else {
        return Err(blueprint.error(format!(
            "the blueprint `{name}` is not supported by the embedded engine of this version"
        )));
    };
    reader(fields.required("policy")?)
}

/// Reads the section of the values that is the one component which decides.
type Section = for<'t> fn(At<'t>, &Place, OutPort<'t>, &mut Circuit<'t>) -> Result<(), PolicyError>;

fn rate_limiting(at: At<'_>) -> Result<Policy, PolicyError> {
    const KNOWN: Known = &["policy_name", "components", "resources", "rate_limiter"];
    limiting(at, KNOWN, components::rate_limiter_values)
}

fn quota_scheduling(at: At<'_>) -> Result<Policy, PolicyError> {
    const KNOWN: Known = &["policy_name", "components", "resources", "quota_scheduler"];
    limiting(at, KNOWN, components::quota_scheduler_values)
}

fn concurrency_limiting(at: At<'_>) -> Result<Policy, PolicyError> {
    const KNOWN: Known = &[
        "policy_name",
        "components",
        "resources",
        "concurrency_limiter",
    ];
    limiting(at, KNOWN, components::concurrency_limiter_values)
}

fn concurrency_scheduling(at: At<'_>) -> Result<Policy, PolicyError> {
    const KNOWN: Known = &[
        "policy_name",
        "components",
        "resources",
        "concurrency_scheduler",
    ];
    limiting(at, KNOWN, components::concurrency_scheduler_values)
}

/// The component of the last known key, an alert about what it accepts, then the file's own
/// components.
fn limiting(at: At<'_>, known: Known, read: Section) -> Result<Policy, PolicyError> {
    let content = at.clone();
    let fields = at.object(known)?;
    let name = fields.required_text("policy_name")?;
    let section = fields.required(known[3])?;
    let mut circuit = Circuit::new(name);
    let place = circuit.place(Circuit::ROOT, 0);
    let accepted = ports::inner(&section, Circuit::ROOT, "ACCEPT_PERCENTAGE");
    read(section.clone(), &place, accepted, &mut circuit)?;
    circuit.add(Wired {
        id: circuit.place(Circuit::ROOT, 1).id,
        inputs: vec![
            ports::hearing(&section, Circuit::ROOT, "ACCEPT_PERCENTAGE"),
            ports::constant(&section, 90.0),
        ],
        outputs: vec![ports::inner(
            &section,
            Circuit::ROOT,
            "ACCEPT_PERCENTAGE_ALERT",
        )],
        part: decider(Comparison::Gte, Duration::ZERO),
    });
    let place = circuit.place(Circuit::ROOT, 2);
    let alert = ports::hearing(&section, Circuit::ROOT, "ACCEPT_PERCENTAGE_ALERT");
    circuit.add(alerter(&place, vec![alert]));
    if let Some(at) = section.peek("alerter") {
        at.warn("has no effect: the embedded engine sends no alerts");
        components::check_alerter(at)?;
    }
    if let Some(components) = fields.get("components") {
        circuit.read_list(&components, Circuit::ROOT, 3)?;
    }
    let resources = Resources::read(&fields)?;
    finish(name, &content, circuit, EVALUATION_INTERVAL, resources)
}
