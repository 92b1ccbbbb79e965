//! Blueprints: a values file stands for a whole policy.

use super::PolicyError;
use super::circuit::Circuit;
use super::components::{alerter, blueprint_rate_limiter, decider};
use super::decode::At;
use super::document::{find, finish, resources};
use super::model::Policy;
use super::ports::{self, InPort, OutPort, Source};
use super::suggest::hint;
use super::yaml::shortened;

/// Reads the values below `policy`.
type Expand = for<'t> fn(At<'t>) -> Result<Policy, PolicyError>;

/// Blueprints; without a reader, they are refused by name.
const BLUEPRINTS: &[(&str, Option<Expand>)] = &[
    ("rate-limiting/base", Some(rate_limiting)),
    ("quota-scheduling/base", None),
    ("concurrency-limiting/base", None),
    ("concurrency-scheduling/base", None),
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

/// A rate limiter, an alert when most flows are accepted no more, then the file's own components.
fn rate_limiting(at: At<'_>) -> Result<Policy, PolicyError> {
    let content = at.clone();
    let fields = at.object(&["policy_name", "components", "resources", "rate_limiter"])?;
    let name = fields.required_text("policy_name")?;
    let section = fields.required("rate_limiter")?;

    let mut circuit = Circuit::new();
    let place = circuit.place(Circuit::ROOT, 0);
    let accepted = generated(&section, "ACCEPT_PERCENTAGE");
    circuit.add(blueprint_rate_limiter(section.clone(), &place, accepted)?);
    let place = circuit.place(Circuit::ROOT, 1);
    let inputs = vec![
        listening(&section, "ACCEPT_PERCENTAGE"),
        ports::constant(&section, 90.0),
    ];
    let output = generated(&section, "ACCEPT_PERCENTAGE_ALERT");
    circuit.add(decider(&place, "gte", false, inputs, output));
    let place = circuit.place(Circuit::ROOT, 2);
    circuit.add(alerter(
        &place,
        vec![listening(&section, "ACCEPT_PERCENTAGE_ALERT")],
    ));
    if let Some(components) = fields.get("components") {
        circuit.read_list(&components, Circuit::ROOT, 3)?;
    }
    resources(&fields)?;
    finish(name, &content, circuit)
}

fn generated<'t>(at: &At<'t>, name: &'t str) -> OutPort<'t> {
    OutPort {
        at: at.clone(),
        scope: Circuit::ROOT,
        name: Some(name),
    }
}

fn listening<'t>(at: &At<'t>, name: &'t str) -> InPort<'t> {
    let scope = Circuit::ROOT;
    InPort {
        at: at.clone(),
        source: Source::Signal { scope, name },
    }
}
