//! Reads `aimd_load_scheduler`, `aiad_load_scheduler`, `range_driven_load_scheduler` and the old
//! `adaptive_load_scheduler`: a load scheduler in a control loop.

mod aiad;
mod aimd;
mod range;

use std::time::Duration;

use super::load_scheduler::{self, DryRunSetting, LoadSchedulerSettings};
use super::{
    CircuitBuilder, ComponentBehaviour, ComponentLocation, DocumentNode, PolicyError,
    SignalForwarder, WiredComponent, alerter, logic,
};
use crate::policy::components::decider;
use crate::policy::decode::{Bounds, Field, FieldValue, Object, Section};
use crate::policy::model::Comparison;
use crate::policy::ports::{self, InPort, OutPort, ScopeIndex};

pub(super) use self::aiad::{FIELDS as AIAD, read as read_aiad};
pub(in crate::policy) use self::aiad::{
    OVERLOAD_CONDITIONS, PARAMETERS as AIAD_PARAMETERS, aiad, overload_condition,
};
pub(in crate::policy) use self::aimd::{AimdDefaults, PARAMETERS as AIMD_PARAMETERS, aimd};
pub(super) use self::aimd::{FIELDS as AIMD, read as read_aimd, read_adaptive};
pub(super) use self::range::{FIELDS as RANGE, read as read_range};

/// The in-ports of loops that compare a signal with a setpoint.
static SETPOINT_IN_PORTS: Section = Section::new(
    "",
    &[&[
        ports::required_port("signal", "The value that is measured."),
        ports::required_port("setpoint", "The value that is wanted."),
        CONFIRMATION,
    ]],
);

const CONFIRMATION: Field = ports::port(
    "overload_confirmation",
    "Must be on for an overload. Without it, the signal alone decides.",
);

/// The `in_ports` of loops that compare a signal with a setpoint.
const IN_PORTS: Field = Field::optional(
    "in_ports",
    FieldValue::Section(&SETPOINT_IN_PORTS),
    "The inputs. Without them, every flow passes.",
);

const OUT_PORTS: Field = Field::optional(
    "out_ports",
    FieldValue::Section(&OUT_PORTS_SECTION),
    "What the loop does.",
);

static OUT_PORTS_SECTION: Section = Section::new(
    "",
    &[&[
        ports::output("is_overload", "Whether there is an overload."),
        ports::output(
            "desired_load_multiplier",
            "The share of the demand to accept.",
        ),
        ports::output(
            "observed_load_multiplier",
            "The share of the demand that was accepted.",
        ),
    ]],
);

/// The load scheduler inside of a loop.
const LOAD_SCHEDULER: Field = Field::required(
    "load_scheduler",
    FieldValue::Section(&load_scheduler::PARAMETERS),
    "The flows and their queue.",
);

const MAX_LOAD_MULTIPLIER: Field = Field::with_default(
    "max_load_multiplier",
    FieldValue::Number(Bounds::None),
    "2",
    "The load multiplier at which every flow passes again.",
);

/// The ports of a control loop, with its `dry_run` setting.
pub(in crate::policy) struct LoopPorts<'t> {
    pub(in crate::policy) signal: InPort<'t>,
    pub(in crate::policy) setpoint: InPort<'t>,
    pub(in crate::policy) confirmation: InPort<'t>,
    /// The outputs, in the order of [`OUT_PORTS_SECTION`].
    pub(in crate::policy) outputs: Vec<OutPort<'t>>,
    pub(in crate::policy) dry_run: DryRunSetting,
}

fn read_ports<'t>(
    fields: &Object<'t>,
    known: &'static Section,
    location: &ComponentLocation,
    circuit: &CircuitBuilder<'t>,
) -> Result<LoopPorts<'t>, PolicyError> {
    let in_ports = fields.object("in_ports", known)?;
    let in_port = |key: &str| match &in_ports {
        None => Ok(ports::unwired(&fields.node)),
        Some(in_ports)
            if key != "overload_confirmation" && known.names().any(|name| name == key) =>
        {
            ports::required_in_port(in_ports, key, location.scope)
        }
        Some(in_ports) => ports::optional_in_port(in_ports, key, location.scope),
    };
    Ok(LoopPorts {
        signal: in_port("signal")?,
        setpoint: in_port("setpoint")?,
        confirmation: in_port("overload_confirmation")?,
        outputs: ports::out_ports(fields, &OUT_PORTS_SECTION, location.scope)?,
        dry_run: load_scheduler::dry_run(fields, circuit)?,
    })
}

/// Adds the components of a control loop one by one, under their indices in it.
struct LoopBuilder<'c, 't> {
    node: DocumentNode<'t>,
    id: String,
    inner: ScopeIndex,
    circuit: &'c mut CircuitBuilder<'t>,
}

impl<'t> LoopBuilder<'_, 't> {
    fn add(
        &mut self,
        index: u32,
        inputs: Vec<InPort<'t>>,
        output: &'static str,
        behaviour: impl ComponentBehaviour + 't,
    ) {
        self.add_boxed(index, inputs, output, Box::new(behaviour));
    }

    fn add_boxed(
        &mut self,
        index: u32,
        inputs: Vec<InPort<'t>>,
        output: &'static str,
        behaviour: Box<dyn ComponentBehaviour + 't>,
    ) {
        self.circuit.add(WiredComponent {
            id: format!("{}.{index}", self.id),
            inputs,
            outputs: vec![ports::inner_out_port(&self.node, self.inner, output)],
            behaviour,
        });
    }

    fn add_decider(
        &mut self,
        index: u32,
        left: InPort<'t>,
        comparison: Comparison,
        right: InPort<'t>,
        output: &'static str,
    ) {
        let behaviour = decider(comparison, Duration::ZERO);
        self.add_boxed(index, vec![left, right], output, behaviour);
    }

    fn constant(&self, value: f64) -> InPort<'t> {
        ports::constant(&self.node, value)
    }

    fn input(&self, name: &'static str) -> InPort<'t> {
        ports::inner_in_port(&self.node, self.inner, name)
    }
}

/// Adds the components that all loops have in common. Each kind of loop must add components that
/// compute `OVERLOAD`, `MULTIPLIER` and `PASS_THROUGH` from its inputs, from `IS_OVERLOAD` and from
/// `OBSERVED`.
fn add_common_components<'c, 't>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    confirmation: InPort<'t>,
    outputs: Vec<OutPort<'t>>,
    dry_run: DryRunSetting,
    settings: LoadSchedulerSettings,
    circuit: &'c mut CircuitBuilder<'t>,
) -> LoopBuilder<'c, 't> {
    let inner = circuit.open_scope(&location.id);
    let mut builder = LoopBuilder {
        node,
        id: location.id.clone(),
        inner,
        circuit,
    };
    let one = builder.constant(1.0);
    builder.add(
        0,
        vec![confirmation, one],
        "CONFIRMATION",
        logic::FirstValid,
    );
    let both = vec![builder.input("OVERLOAD"), builder.input("CONFIRMATION")];
    builder.add(1, both, "IS_OVERLOAD", logic::AND);
    let desired = vec![
        builder.input("PASS_THROUGH"),
        builder.constant(f64::NAN),
        builder.input("MULTIPLIER"),
    ];
    builder.add(2, desired, "DESIRED", logic::Switcher);
    let (desired, one) = (builder.input("DESIRED"), builder.constant(1.0));
    builder.add_decider(3, desired, Comparison::Lt, one, "ALERT");
    let scheduler = ComponentLocation {
        id: format!("{}.4", location.id),
        scope: inner,
    };
    let input = builder.input("DESIRED");
    let observed = ports::inner_out_port(&builder.node, inner, "OBSERVED");
    let node = builder.node.clone();
    load_scheduler::add(
        &node,
        &scheduler,
        input,
        Some(observed),
        dry_run,
        settings,
        builder.circuit,
    );
    let alert = ComponentLocation {
        id: format!("{}.5", location.id),
        scope: inner,
    };
    let input = builder.input("ALERT");
    builder.circuit.add(alerter(&alert, vec![input]));
    for (name, output) in ["IS_OVERLOAD", "DESIRED", "OBSERVED"]
        .into_iter()
        .zip(outputs)
    {
        let input = builder.input(name);
        builder.circuit.add(WiredComponent {
            id: location.id.clone(),
            inputs: vec![input],
            outputs: vec![output],
            behaviour: Box::new(SignalForwarder),
        });
    }
    builder
}

/// Checks the parameters of the alerter, although alerts are not sent.
fn check_alerter(parameters: &Object<'_>) -> Result<(), PolicyError> {
    let node = parameters.required("alerter")?;
    node.warn("has no effect: the embedded engine sends no alerts");
    alerter::check_parameters(node)
}
