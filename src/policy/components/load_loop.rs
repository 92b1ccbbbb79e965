//! `aimd_load_scheduler`, `aiad_load_scheduler`, `range_driven_load_scheduler` and the old
//! `adaptive_load_scheduler`: a load scheduler in a control loop.

use std::time::Duration;

use super::load_scheduler::{self, Settings};
use super::{
    At, Circuit, Computed, Op, Part, Place, PolicyError, Wired, alerter, arithmetic_combinator,
    gradient_controller, logic, nested_circuit,
};
use crate::policy::components::decider;
use crate::policy::decode::Object;
use crate::policy::model::{Arithmetic, Comparison, PolynomialRange};
use crate::policy::ports::{self, InPort, OutPort, Scope};

const CONTENT: &[&str] = &[
    "in_ports",
    "out_ports",
    "parameters",
    "dry_run",
    "dry_run_config_key",
];
const AIAD_CONTENT: &[&str] = &[
    "in_ports",
    "out_ports",
    "parameters",
    "overload_condition",
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
    pub(in crate::policy) dry_run: bool,
}

/// Where an AIMD loop has no parameter of its own.
#[derive(Clone, Copy)]
pub(in crate::policy) struct AimdDefaults {
    pub(in crate::policy) gradient: (f64, f64),
    pub(in crate::policy) increment: f64,
}

pub(super) fn read_aimd<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    read_gradient(at, place, circuit, 0.025)
}

pub(super) fn read_adaptive<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let message = "deprecated; its name is `aimd_load_scheduler` now";
    if at.context.strict {
        return Err(at.error(message));
    }
    at.warn(message);
    read_gradient(at, place, circuit, 0.0025)
}

fn read_gradient<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
    increment: f64,
) -> Result<(), PolicyError> {
    let fields = at.object(CONTENT)?;
    let ports = ports(
        &fields,
        &["signal", "setpoint", "overload_confirmation"],
        place,
        circuit,
    )?;
    let defaults = AimdDefaults {
        gradient: (-f64::MAX, f64::MAX),
        increment,
    };
    aimd(
        fields.required("parameters")?,
        place,
        ports,
        defaults,
        circuit,
    )
}

pub(super) fn read_aiad<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(AIAD_CONTENT)?;
    let ports = ports(
        &fields,
        &["signal", "setpoint", "overload_confirmation"],
        place,
        circuit,
    )?;
    let condition = match fields.scalar("overload_condition") {
        Some(at) => overload_condition(&at)?,
        None => Comparison::Gt,
    };
    aiad(
        fields.required("parameters")?,
        place,
        ports,
        condition,
        circuit,
    )
}

/// How a signal that means overload compares with its setpoint.
pub(in crate::policy) fn overload_condition(at: &At<'_>) -> Result<Comparison, PolicyError> {
    at.one_of(&["gt", "lt", "gte", "lte"])
        .map(Comparison::named)
}

pub(super) fn read_range<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(CONTENT)?;
    let ports = ports(
        &fields,
        &["signal", "overload_confirmation"],
        place,
        circuit,
    )?;
    range(fields.required("parameters")?, place, ports, circuit)
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
    dry_run: bool,
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

/// More load step by step; less by how far the signal is off.
pub(in crate::policy) fn aimd<'t>(
    parameters: At<'t>,
    place: &Place,
    ports: Ports<'t>,
    defaults: AimdDefaults,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = parameters.object(&[
        "load_scheduler",
        "gradient",
        "max_load_multiplier",
        "load_multiplier_linear_increment",
        "alerter",
    ])?;
    let settings = load_scheduler::settings(fields.required("load_scheduler")?)?;
    let gradient = gradient_controller::gradient(&fields.required("gradient")?, defaults.gradient)?;
    let max = fields.number("max_load_multiplier", 2.0)?;
    let increment = fields.number("load_multiplier_linear_increment", defaults.increment)?;
    check_alerter(&fields)?;

    let comparison = match gradient {
        Op::Gradient { slope, .. } if slope > 0.0 => Comparison::Lt,
        _ => Comparison::Gt,
    };
    let Ports {
        signal,
        setpoint,
        confirmation,
        outputs,
        dry_run,
    } = ports;
    let mut parts = around(
        fields.at.clone(),
        place,
        confirmation,
        outputs,
        dry_run,
        settings,
        circuit,
    );
    parts.compare(6, signal.clone(), comparison, setpoint.clone(), "OVERLOAD");
    let correction = vec![
        signal,
        setpoint,
        parts.hear("OBSERVED"),
        parts.constant(f64::NAN),
        parts.constant(f64::NAN),
    ];
    parts.part(7, correction, "CUT", Computed(gradient));
    let sum = vec![
        parts.constant(increment),
        parts.hear("IS_OVERLOAD"),
        parts.constant(max),
        parts.constant(f64::NAN),
    ];
    parts.part(
        8,
        sum,
        "RECOVERY",
        Computed(Op::Integrator { initial: max }),
    );
    let more = vec![parts.hear("OBSERVED"), parts.hear("RECOVERY")];
    parts.boxed(
        9,
        more,
        "RAISED",
        arithmetic_combinator::combinator(Arithmetic::Add),
    );
    let choice = vec![
        parts.hear("IS_OVERLOAD"),
        parts.hear("CUT"),
        parts.hear("RAISED"),
    ];
    parts.part(10, choice, "MULTIPLIER", logic::Switcher);
    let (multiplier, max) = (parts.hear("MULTIPLIER"), parts.constant(max));
    parts.compare(11, multiplier, Comparison::Gte, max, "PASS_THROUGH");
    Ok(())
}

/// More load step by step, and less step by step.
pub(in crate::policy) fn aiad<'t>(
    parameters: At<'t>,
    place: &Place,
    ports: Ports<'t>,
    condition: Comparison,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = parameters.object(&[
        "load_scheduler",
        "min_load_multiplier",
        "max_load_multiplier",
        "load_multiplier_linear_decrement",
        "load_multiplier_linear_increment",
        "alerter",
    ])?;
    let settings = load_scheduler::settings(fields.required("load_scheduler")?)?;
    let min = fields.number("min_load_multiplier", 0.0)?;
    let max = fields.number("max_load_multiplier", 2.0)?;
    let decrement = fields.number("load_multiplier_linear_decrement", 0.05)?;
    let increment = fields.number("load_multiplier_linear_increment", 0.025)?;
    check_alerter(&fields)?;

    let Ports {
        signal,
        setpoint,
        confirmation,
        outputs,
        dry_run,
    } = ports;
    let mut parts = around(
        fields.at.clone(),
        place,
        confirmation,
        outputs,
        dry_run,
        settings,
        circuit,
    );
    parts.compare(6, signal, condition, setpoint, "OVERLOAD");
    let step = vec![
        parts.hear("IS_OVERLOAD"),
        parts.constant(-decrement),
        parts.constant(increment),
    ];
    parts.part(7, step, "STEP", logic::Switcher);
    let most = vec![
        parts.hear("IS_OVERLOAD"),
        parts.constant(1.0 - decrement),
        parts.constant(max),
    ];
    parts.part(8, most, "MOST", logic::Switcher);
    let sum = vec![
        parts.hear("STEP"),
        parts.constant(f64::NAN),
        parts.hear("MOST"),
        parts.constant(min),
    ];
    parts.part(
        9,
        sum,
        "MULTIPLIER",
        Computed(Op::Integrator { initial: max }),
    );
    let (multiplier, max) = (parts.hear("MULTIPLIER"), parts.constant(max));
    parts.compare(10, multiplier, Comparison::Gte, max, "PASS_THROUGH");
    Ok(())
}

/// As much load as a curve over the signal says; the confirmation changes nothing about that.
fn range<'t>(
    parameters: At<'t>,
    place: &Place,
    ports: Ports<'t>,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = parameters.object(&[
        "load_scheduler",
        "low_throttle_threshold",
        "high_throttle_threshold",
        "degree",
        "alerter",
    ])?;
    let settings = load_scheduler::settings(fields.required("load_scheduler")?)?;
    let curve = PolynomialRange {
        low: threshold(fields.required("low_throttle_threshold")?)?,
        high: threshold(fields.required("high_throttle_threshold")?)?,
        degree: gradient_controller::not_zero(&fields, "degree")?,
    };
    check_alerter(&fields)?;

    let Ports {
        signal,
        confirmation,
        outputs,
        dry_run,
        ..
    } = ports;
    let mut parts = around(
        fields.at.clone(),
        place,
        confirmation,
        outputs,
        dry_run,
        settings,
        circuit,
    );
    parts.part(
        6,
        vec![signal],
        "MULTIPLIER",
        Computed(Op::PolynomialRange(curve)),
    );
    let (multiplier, one) = (parts.hear("MULTIPLIER"), parts.constant(1.0));
    parts.compare(7, multiplier, Comparison::Lt, one, "OVERLOAD");
    let (multiplier, one) = (parts.hear("MULTIPLIER"), parts.constant(1.0));
    parts.compare(8, multiplier, Comparison::Gte, one, "PASS_THROUGH");
    Ok(())
}

fn threshold(at: At<'_>) -> Result<(f64, f64), PolicyError> {
    let fields = at.object(&["signal_value", "load_multiplier"])?;
    let multiplier = fields.number("load_multiplier", 0.0)?;
    if !(0.0..=1.0).contains(&multiplier) {
        return Err(fields.at.error("`load_multiplier` is from 0 to 1"));
    }
    Ok((fields.number("signal_value", 0.0)?, multiplier))
}
