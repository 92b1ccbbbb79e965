//! `aimd_load_scheduler`, `aiad_load_scheduler`, `range_driven_load_scheduler` and the old
//! `adaptive_load_scheduler`: a load scheduler in a control loop.

mod aiad;
mod aimd;
mod range;

use std::time::Duration;

use super::load_scheduler::{self, DryRun, Settings};
use super::{At, Circuit, Part, Place, PolicyError, Wired, alerter, logic, nested_circuit};
use crate::policy::components::decider;
use crate::policy::decode::Object;
use crate::policy::model::Comparison;
use crate::policy::ports::{self, InPort, OutPort, Scope};

pub(super) use self::aiad::read as read_aiad;
pub(in crate::policy) use self::aiad::{aiad, overload_condition};
pub(in crate::policy) use self::aimd::{AimdDefaults, aimd};
pub(super) use self::aimd::{read as read_aimd, read_adaptive};
pub(super) use self::range::read as read_range;

const CONTENT: &[&str] = &[
    "in_ports",
    "out_ports",
    "parameters",
    "dry_run",
    "dry_run_config_key",
];
const OUT_PORTS: &[&str] = &[
    "is_overload",
    "desired_load_multiplier",
    "observed_load_multiplier",
];

/// What leads into a loop and out of it.
pub(in crate::policy) struct Ports<'t> {
    pub(in crate::policy) signal: InPort<'t>,
    pub(in crate::policy) setpoint: InPort<'t>,
    pub(in crate::policy) confirmation: InPort<'t>,
    /// In the order of [`OUT_PORTS`]; none where nobody listens.
    pub(in crate::policy) outputs: Vec<OutPort<'t>>,
    pub(in crate::policy) dry_run: DryRun,
}

fn ports<'t>(
    fields: &Object<'t>,
    known: &'static [&'static str],
    place: &Place,
    circuit: &Circuit<'t>,
) -> Result<Ports<'t>, PolicyError> {
    let wires = fields.object("in_ports", known)?;
    let wire = |key: &str| match &wires {
        None => Ok(ports::unwired(&fields.at)),
        Some(wires) if key != "overload_confirmation" && known.contains(&key) => {
            ports::required(wires, key, place.scope)
        }
        Some(wires) => ports::given(wires, key, place.scope),
    };
    Ok(Ports {
        signal: wire("signal")?,
        setpoint: wire("setpoint")?,
        confirmation: wire("overload_confirmation")?,
        outputs: ports::out_ports(fields, OUT_PORTS, place.scope)?,
        dry_run: load_scheduler::dry_run(fields, circuit)?,
    })
}

/// The parts of a loop, added one by one under their places in it.
struct Loop<'c, 't> {
    at: At<'t>,
    id: String,
    inner: Scope,
    circuit: &'c mut Circuit<'t>,
}

impl<'t> Loop<'_, 't> {
    fn part(
        &mut self,
        index: u32,
        inputs: Vec<InPort<'t>>,
        output: &'static str,
        part: impl Part + 't,
    ) {
        self.boxed(index, inputs, output, Box::new(part));
    }

    fn boxed(
        &mut self,
        index: u32,
        inputs: Vec<InPort<'t>>,
        output: &'static str,
        part: Box<dyn Part + 't>,
    ) {
        self.circuit.add(Wired {
            id: format!("{}.{index}", self.id),
            inputs,
            outputs: vec![ports::inner(&self.at, self.inner, output)],
            part,
        });
    }

    fn compare(
        &mut self,
        index: u32,
        left: InPort<'t>,
        comparison: Comparison,
        right: InPort<'t>,
        output: &'static str,
    ) {
        let part = decider(comparison, Duration::ZERO);
        self.boxed(index, vec![left, right], output, part);
    }

    fn constant(&self, value: f64) -> InPort<'t> {
        ports::constant(&self.at, value)
    }

    fn hear(&self, name: &'static str) -> InPort<'t> {
        ports::hearing(&self.at, self.inner, name)
    }
}

/// What the loops have in common: they make `OVERLOAD`, `MULTIPLIER` and `PASS_THROUGH` of what
/// comes in, of `IS_OVERLOAD` and of `OBSERVED`.
fn around<'c, 't>(
    at: At<'t>,
    place: &Place,
    confirmation: InPort<'t>,
    outputs: Vec<OutPort<'t>>,
    dry_run: DryRun,
    settings: Settings,
    circuit: &'c mut Circuit<'t>,
) -> Loop<'c, 't> {
    let inner = circuit.open(&place.id);
    let mut parts = Loop {
        at,
        id: place.id.clone(),
        inner,
        circuit,
    };
    let one = parts.constant(1.0);
    parts.part(
        0,
        vec![confirmation, one],
        "CONFIRMATION",
        logic::FirstValid,
    );
    let both = vec![parts.hear("OVERLOAD"), parts.hear("CONFIRMATION")];
    parts.part(1, both, "IS_OVERLOAD", logic::ALL);
    let desired = vec![
        parts.hear("PASS_THROUGH"),
        parts.constant(f64::NAN),
        parts.hear("MULTIPLIER"),
    ];
    parts.part(2, desired, "DESIRED", logic::Switcher);
    let (desired, one) = (parts.hear("DESIRED"), parts.constant(1.0));
    parts.compare(3, desired, Comparison::Lt, one, "ALERT");
    let scheduler = Place {
        id: format!("{}.4", place.id),
        scope: inner,
    };
    let input = parts.hear("DESIRED");
    let observed = ports::inner(&parts.at, inner, "OBSERVED");
    let at = parts.at.clone();
    load_scheduler::add(
        &at,
        &scheduler,
        input,
        Some(observed),
        dry_run,
        settings,
        parts.circuit,
    );
    let alert = Place {
        id: format!("{}.5", place.id),
        scope: inner,
    };
    let input = parts.hear("ALERT");
    parts.circuit.add(alerter(&alert, vec![input]));
    for (name, output) in ["IS_OVERLOAD", "DESIRED", "OBSERVED"]
        .into_iter()
        .zip(outputs)
    {
        let input = parts.hear(name);
        parts.circuit.add(Wired {
            id: place.id.clone(),
            inputs: vec![input],
            outputs: vec![output],
            part: Box::new(nested_circuit::Wire),
        });
    }
    parts
}

/// Alerts are not sent, but must be right.
fn check_alerter(parameters: &Object<'_>) -> Result<(), PolicyError> {
    let at = parameters.required("alerter")?;
    at.warn("has no effect: the embedded engine sends no alerts");
    alerter::check_parameters(at)
}
