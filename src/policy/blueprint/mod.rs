//! Blueprints: a values file stands for a whole policy.

mod auto_scaling;
mod load_ramping;
mod load_scheduling;

use std::time::Duration;

use super::PolicyError;
use super::circuit::Circuit;
use super::components::{self, Place, alerter, decider};
use super::decode::{At, Object};
use super::document::{EVALUATION_INTERVAL, find, finish};
use super::model::{Comparison, FluxMeter, Policy};
use super::ports::{self, OutPort};
use super::resources::Resources;
use super::suggest::hint;
use super::yaml::shortened;

/// Reads the values below `policy`.
type Expand = for<'t> fn(At<'t>, &[At<'t>]) -> Result<Policy, PolicyError>;

type Known = &'static [&'static str];

const BLUEPRINTS: &[(&str, Expand)] = &[
    ("rate-limiting/base", rate_limiting),
    ("quota-scheduling/base", quota_scheduling),
    ("concurrency-limiting/base", concurrency_limiting),
    ("concurrency-scheduling/base", concurrency_scheduling),
    (
        "load-scheduling/average-latency",
        load_scheduling::average_latency,
    ),
    ("load-scheduling/promql", load_scheduling::promql),
    ("load-scheduling/postgresql", load_scheduling::postgresql),
    (
        "load-scheduling/elasticsearch",
        load_scheduling::elasticsearch,
    ),
    ("load-scheduling/java-gc-generic", load_scheduling::java_gc),
    ("load-scheduling/java-gc-k8s", load_scheduling::java_gc),
    (
        "load-scheduling/cpu-overload-protection-k8s",
        load_scheduling::cpu,
    ),
    ("load-ramping/base", load_ramping::expand),
    ("auto-scaling/pod-auto-scaler", auto_scaling::expand),
];

/// What a generated values file holds where the user must write something.
const PLACEHOLDER: &str = "__REQUIRED_FIELD__";

pub(super) fn expand<'t>(
    at: At<'t>,
    text: &str,
    dynamic: &[At<'t>],
) -> Result<Policy, PolicyError> {
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
    reader(fields.required("policy")?, dynamic)
}

/// Reads the section of the values that is the one component which decides.
type Section = for<'t> fn(At<'t>, &Place, OutPort<'t>, &mut Circuit<'t>) -> Result<(), PolicyError>;

fn rate_limiting<'t>(at: At<'t>, dynamic: &[At<'t>]) -> Result<Policy, PolicyError> {
    const KNOWN: Known = &["policy_name", "components", "resources", "rate_limiter"];
    limiting(at, dynamic, KNOWN, components::rate_limiter_values)
}

fn quota_scheduling<'t>(at: At<'t>, dynamic: &[At<'t>]) -> Result<Policy, PolicyError> {
    const KNOWN: Known = &["policy_name", "components", "resources", "quota_scheduler"];
    limiting(at, dynamic, KNOWN, components::quota_scheduler_values)
}

fn concurrency_limiting<'t>(at: At<'t>, dynamic: &[At<'t>]) -> Result<Policy, PolicyError> {
    const KNOWN: Known = &[
        "policy_name",
        "components",
        "resources",
        "concurrency_limiter",
    ];
    limiting(at, dynamic, KNOWN, components::concurrency_limiter_values)
}

fn concurrency_scheduling<'t>(at: At<'t>, dynamic: &[At<'t>]) -> Result<Policy, PolicyError> {
    const KNOWN: Known = &[
        "policy_name",
        "components",
        "resources",
        "concurrency_scheduler",
    ];
    limiting(at, dynamic, KNOWN, components::concurrency_scheduler_values)
}

/// The component of the last known key, an alert about what it accepts, then the file's own
/// components.
fn limiting<'t>(
    at: At<'t>,
    dynamic: &[At<'t>],
    known: Known,
    read: Section,
) -> Result<Policy, PolicyError> {
    let fields = at.object(known)?;
    let section = fields.required(known[3])?;
    let mut values = Values::new(&fields, dynamic)?;
    let accepted = ports::inner(&section, Circuit::ROOT, "ACCEPT_PERCENTAGE");
    let place = values.place();
    read(section.clone(), &place, accepted, &mut values.circuit)?;
    let inputs = vec![
        ports::hearing(&section, Circuit::ROOT, "ACCEPT_PERCENTAGE"),
        ports::constant(&section, 90.0),
    ];
    const ALERT: &str = "ACCEPT_PERCENTAGE_ALERT";
    let alert = vec![ports::inner(&section, Circuit::ROOT, ALERT)];
    values.part(inputs, alert, decider(Comparison::Gte, Duration::ZERO));
    let place = values.place();
    let alert = ports::hearing(&section, Circuit::ROOT, ALERT);
    values.circuit.add(alerter(&place, vec![alert]));
    if let Some(at) = section.peek("alerter") {
        at.warn("has no effect: the embedded engine sends no alerts");
        components::check_alerter(at)?;
    }
    values.components(&fields)?;
    values.finish()
}

/// What a values file expands to, as far as it is read.
struct Values<'t> {
    content: At<'t>,
    name: &'t str,
    circuit: Circuit<'t>,
    resources: Resources,
    /// Those that the blueprint makes.
    meters: Vec<FluxMeter>,
    /// Index of the next component.
    next: usize,
}

impl<'t> Values<'t> {
    /// Name and resources of the mapping below `policy`.
    fn new(fields: &Object<'t>, dynamic: &[At<'t>]) -> Result<Self, PolicyError> {
        let name = fields.required_text("policy_name")?;
        let mut circuit = Circuit::new(name);
        for at in dynamic {
            circuit.configure(at)?;
        }
        Ok(Self {
            content: fields.at.clone(),
            name,
            circuit,
            resources: Resources::read(fields)?,
            meters: Vec::new(),
            next: 0,
        })
    }

    /// Where the next component of the root circuit stands.
    fn place(&mut self) -> Place {
        let place = self.circuit.place(Circuit::ROOT, self.next);
        self.next += 1;
        place
    }

    /// The file's own components.
    fn components(&mut self, fields: &Object<'t>) -> Result<(), PolicyError> {
        if let Some(list) = fields.get("components") {
            self.circuit.read_list(&list, Circuit::ROOT, self.next)?;
            self.next += list.list()?.len();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Policy, PolicyError> {
        self.resources.add(self.meters);
        finish(
            self.name,
            &self.content,
            self.circuit,
            EVALUATION_INTERVAL,
            self.resources,
        )
    }
}
