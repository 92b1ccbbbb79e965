//! Reads the components of a circuit. Each kind has a file of its own and a line in one of the
//! lists below.

mod alerter;
mod arithmetic_combinator;
mod auto_scale;
mod bucket;
mod concurrency_limiter;
mod concurrency_scheduler;
mod decider;
mod gradient_controller;
mod integrator;
mod keyed;
mod load_loop;
mod load_ramp;
mod load_scheduler;
mod logic;
mod nested_circuit;
mod query;
mod quota_scheduler;
mod rate_limiter;
mod sampler;
mod scheduler;
mod signal_generator;
mod slots;
mod variable;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::PolicyError;
use super::circuit::CircuitBuilder;
use super::decode::{DocumentNode, Field, FieldValue, Object, Section};
use super::model::{
    ComponentKind, ConcurrencyLimiter, ConcurrencyScheduler, Op, QuotaScheduler, RateLimiter,
    RequestParameters, Selector,
};
use super::ports::{FoldedSignal, InPort, InputSignals, OutPort, ScopeIndex};
use super::status_code;
use super::suggest::hint;
use super::yaml::shortened;

pub(super) use self::alerter::{alerter, check_parameters as check_alerter};
pub(super) use self::arithmetic_combinator::combinator;
pub(super) use self::auto_scale::{NO_SCALING, auto_scale};
pub(super) use self::decider::decider;
pub(super) use self::keyed::{KeyedComponent, read_values as keyed_values};
pub(super) use self::load_loop::{
    AIAD_PARAMETERS, AIMD_PARAMETERS, AimdDefaults, LoopPorts, OVERLOAD_CONDITIONS, aiad, aimd,
    overload_condition,
};
pub(super) use self::load_ramp::{PARAMETERS as LOAD_RAMP_PARAMETERS, add as load_ramp};
pub(super) use self::load_scheduler::DryRunSetting;
pub(super) use self::logic::{AND, FirstValid, Inverter, OR};
pub(super) use self::query::{INTERVAL as QUERY_INTERVAL, op as query_op};
pub(super) use self::variable::constant_variable;

/// Reads one component and adds it to the circuit.
pub(super) type ComponentReader = for<'t> fn(
    DocumentNode<'t>,
    &ComponentLocation,
    &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError>;

/// The id of a component, and the scope of the names of its signals.
#[derive(Clone, Debug)]
pub(super) struct ComponentLocation {
    pub(super) id: String,
    pub(super) scope: ScopeIndex,
}

/// The reader of a kind of component, and its fields.
type KindReader = (ComponentReader, &'static Section);

/// A kind of component by its name. A kind without a reader is refused by name.
pub(super) type KnownKind = (&'static str, Option<KindReader>);

/// The kinds under `flow_control`.
pub(super) const FLOW_CONTROL_KINDS: &[KnownKind] = &[
    (
        "rate_limiter",
        Some((keyed::read::<RateLimiter>, RateLimiter::FIELDS)),
    ),
    (
        "quota_scheduler",
        Some((keyed::read::<QuotaScheduler>, QuotaScheduler::FIELDS)),
    ),
    (
        "concurrency_limiter",
        Some((
            keyed::read::<ConcurrencyLimiter>,
            ConcurrencyLimiter::FIELDS,
        )),
    ),
    (
        "concurrency_scheduler",
        Some((
            keyed::read::<ConcurrencyScheduler>,
            ConcurrencyScheduler::FIELDS,
        )),
    ),
    (
        "load_scheduler",
        Some((load_scheduler::read, &load_scheduler::FIELDS)),
    ),
    (
        "aimd_load_scheduler",
        Some((load_loop::read_aimd, &load_loop::AIMD)),
    ),
    (
        "adaptive_load_scheduler",
        Some((load_loop::read_adaptive, &load_loop::AIMD)),
    ),
    (
        "aiad_load_scheduler",
        Some((load_loop::read_aiad, &load_loop::AIAD)),
    ),
    (
        "range_driven_load_scheduler",
        Some((load_loop::read_range, &load_loop::RANGE)),
    ),
    ("sampler", Some((sampler::read, &sampler::FIELDS))),
    ("load_ramp", Some((load_ramp::read, &load_ramp::FIELDS))),
];

/// The kinds of components of a circuit. `flow_control` is a group of kinds.
pub(super) const CIRCUIT_KINDS: &[KnownKind] = &[
    ("flow_control", Some((read_flow_control, &FLOW_CONTROL))),
    ("variable", Some((variable::read, &variable::FIELDS))),
    (
        "bool_variable",
        Some((variable::read_bool, &variable::BOOL_FIELDS)),
    ),
    (
        "arithmetic_combinator",
        Some((arithmetic_combinator::read, &arithmetic_combinator::FIELDS)),
    ),
    ("decider", Some((decider::read, &decider::FIELDS))),
    ("alerter", Some((alerter::read, &alerter::FIELDS))),
    (
        "nested_circuit",
        Some((nested_circuit::read, &nested_circuit::FIELDS)),
    ),
    (
        "nested_signal_ingress",
        Some((nested_circuit::read_ingress, &nested_circuit::INGRESS)),
    ),
    (
        "nested_signal_egress",
        Some((nested_circuit::read_egress, &nested_circuit::EGRESS)),
    ),
    (
        "gradient_controller",
        Some((gradient_controller::read, &gradient_controller::FIELDS)),
    ),
    ("ema", None),
    ("switcher", Some((logic::read_switcher, &logic::SWITCHER))),
    ("sma", None),
    ("unary_operator", None),
    ("extrapolator", None),
    ("max", None),
    ("min", None),
    (
        "first_valid",
        Some((logic::read_first_valid, &logic::FIRST_VALID)),
    ),
    ("integrator", Some((integrator::read, &integrator::FIELDS))),
    ("differentiator", None),
    ("and", Some((logic::read_and, &logic::AND_FIELDS))),
    ("or", Some((logic::read_or, &logic::OR_FIELDS))),
    ("inverter", Some((logic::read_inverter, &logic::INVERTER))),
    ("pulse_generator", None),
    ("holder", None),
    (
        "signal_generator",
        Some((signal_generator::read, &signal_generator::FIELDS)),
    ),
    ("pid_controller", None),
    ("polynomial_range_function", None),
    ("query", Some((query::read, &query::FIELDS))),
    ("auto_scale", Some((auto_scale::read, &auto_scale::FIELDS))),
];

/// The fields of `flow_control` are the kinds of its group.
static FLOW_CONTROL: Section = Section::new("Flow control", &[]);

/// The out-ports of a component that reports the share of flows that it accepts.
static ACCEPT_PERCENTAGE: Section = Section::new(
    "",
    &[&[super::ports::output(
        "accept_percentage",
        "Without effect here: a signal that depends on it is refused.",
    )]],
);

/// The `out_ports` of limiters and schedulers.
const LIMITER_OUT_PORTS: Field = Field::optional(
    "out_ports",
    FieldValue::Section(&ACCEPT_PERCENTAGE),
    "The share of the flows that were accepted, in percent.",
);

/// The `request_parameters` of a limiter.
const REQUEST_PARAMETERS: Field = Field::optional(
    "request_parameters",
    FieldValue::Section(&REQUEST_PARAMETERS_SECTION),
    "Cost and rejection of a flow.",
);

static REQUEST_PARAMETERS_SECTION: Section = Section::new(
    "",
    &[&[
        Field::optional(
            "tokens_label_key",
            FieldValue::Text,
            "The label with the number of tokens or slots that a flow takes. Without it, or without \
             a number in the label, a flow takes one.",
        ),
        DENIED_STATUS,
    ]],
);

/// The status of rejections, of which each component may set its own.
const DENIED_STATUS: Field = Field::optional(
    "denied_response_status_code",
    FieldValue::StatusCode,
    "The HTTP status of a rejection, in place of the default for its reason.",
);

/// The behaviour of a component with regard to the signals at its ports.
pub(super) trait ComponentBehaviour {
    /// Returns the signals at the out-ports, in the order in which it declared them.
    fn fold_outputs(&self, _inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        Vec::new()
    }

    /// Returns the operation that computes the out-ports which [`fold_outputs`](Self::fold_outputs)
    /// leaves to the running engine.
    fn op(&self) -> Option<Op> {
        None
    }

    /// Returns true if [`build`](Self::build) returns a component.
    fn decides(&self) -> bool {
        false
    }

    /// Returns true if every flow passes at present, so that the inputs do not matter.
    fn passes_everything(&self) -> bool {
        false
    }

    /// Returns the component that the engine runs, if this component decides about flows.
    fn build(
        &self,
        _inputs: &InputSignals<'_, '_>,
    ) -> Result<Option<SelectedComponent>, PolicyError> {
        Ok(None)
    }
}

/// The selectors and the settings of a component that decides.
pub(super) type SelectedComponent = (Vec<Selector>, ComponentKind);

/// A component with its ports.
pub(super) struct WiredComponent<'t> {
    pub(super) id: String,
    pub(super) inputs: Vec<InPort<'t>>,
    pub(super) outputs: Vec<OutPort<'t>>,
    pub(super) behaviour: Box<dyn ComponentBehaviour + 't>,
}

/// A component whose single output is always computed by the running engine.
pub(super) struct RuntimeComponent(pub(super) Op);

impl ComponentBehaviour for RuntimeComponent {
    fn fold_outputs(&self, inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        vec![inputs.at_runtime(0)]
    }

    fn op(&self) -> Option<Op> {
        Some(self.0.clone())
    }
}

/// Builds the settings of a component from the signals at its in-ports.
type BuildKind<'t> = dyn Fn(&InputSignals<'_, '_>) -> Result<ComponentKind, PolicyError> + 't;

/// A component that decides. A signal that depends on its output is unsupported.
pub(super) struct DecidingComponent<'t> {
    origin: Rc<str>,
    selectors: Vec<Selector>,
    build_kind: Box<BuildKind<'t>>,
    passes_everything: bool,
}

impl<'t> DecidingComponent<'t> {
    fn new(
        kind_name: &str,
        location: &ComponentLocation,
        selectors: Vec<Selector>,
        build_kind: impl Fn(&InputSignals<'_, '_>) -> Result<ComponentKind, PolicyError> + 't,
    ) -> Self {
        Self {
            origin: Rc::from(format!("the output of the {kind_name} `{}`", location.id)),
            selectors,
            build_kind: Box::new(build_kind),
            passes_everything: false,
        }
    }

    /// Sets whether every flow passes, whatever the inputs are.
    fn with_passes_everything(mut self, passes_everything: bool) -> Self {
        self.passes_everything = passes_everything;
        self
    }

    fn with_ports(
        self,
        location: &ComponentLocation,
        inputs: Vec<InPort<'t>>,
        outputs: Vec<OutPort<'t>>,
    ) -> WiredComponent<'t> {
        WiredComponent {
            id: location.id.clone(),
            inputs,
            outputs,
            behaviour: Box::new(self),
        }
    }
}

impl ComponentBehaviour for DecidingComponent<'_> {
    fn fold_outputs(&self, _inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        vec![FoldedSignal::Unsupported(Rc::clone(&self.origin))]
    }

    fn decides(&self) -> bool {
        true
    }

    fn passes_everything(&self) -> bool {
        self.passes_everything
    }

    fn build(
        &self,
        inputs: &InputSignals<'_, '_>,
    ) -> Result<Option<SelectedComponent>, PolicyError> {
        Ok(Some((self.selectors.clone(), (self.build_kind)(inputs)?)))
    }
}

/// Reads the `request_parameters` of a limiter.
fn request_parameters(fields: &Object<'_>) -> Result<RequestParameters, PolicyError> {
    let request = fields.object("request_parameters", &REQUEST_PARAMETERS_SECTION)?;
    let mut parameters = RequestParameters::default();
    if let Some(fields) = request {
        parameters.tokens_label_key = fields.text("tokens_label_key")?.and_then(non_empty);
        if let Some(node) = fields.scalar("denied_response_status_code") {
            parameters.denied_response_status_code = status_code::decode(&node)?;
        }
    }
    Ok(parameters)
}

/// Returns the text; `None` if it is empty.
fn non_empty(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| Arc::from(text))
}

/// Returns the duration; zero if it is negative.
pub(super) fn non_negative(nanos: i128) -> Duration {
    const NANOS: u128 = 1_000_000_000;
    let nanos = u128::try_from(nanos).unwrap_or(0);
    // Seconds have at most twelve digits, so neither part overflows.
    Duration::new((nanos / NANOS) as u64, (nanos % NANOS) as u32)
}

/// Reads a duration that must be more than zero. An Agent accepts zero, and then lets every flow
/// pass.
pub(super) fn positive_duration(node: &DocumentNode<'_>) -> Result<Duration, PolicyError> {
    match non_negative(node.duration()?) {
        Duration::ZERO => Err(node.error("must be more than zero")),
        duration => Ok(duration),
    }
}

/// Reads one entry of a list of components.
pub(super) fn read<'t>(
    node: &DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let (node, read) = only_kind(node, CIRCUIT_KINDS)?;
    read(node, location, circuit)
}

#[allow(clippy::needless_pass_by_value)] // The signature of `ComponentReader`.
fn read_flow_control<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let (node, read) = only_kind(&node, FLOW_CONTROL_KINDS)?;
    read(node, location, circuit)
}

/// Returns the value of the one known key of a component, with its reader.
fn only_kind<'t>(
    node: &DocumentNode<'t>,
    kinds: &'static [KnownKind],
) -> Result<(DocumentNode<'t>, ComponentReader), PolicyError> {
    let mut found: Option<(&str, Option<KindReader>, DocumentNode<'t>)> = None;
    let mut unknown: Option<(&str, DocumentNode<'t>)> = None;
    if node.is_null() {
        return Err(node.error("the component has no kind"));
    }
    for (key, value) in node.free_map()? {
        let Some((name, read)) = kinds.iter().find(|(name, _)| *name == key) else {
            unknown = unknown.or(Some((key, value)));
            continue;
        };
        if value.is_null() {
            continue;
        }
        if let Some((first, ..)) = found {
            return Err(value.error(format!(
                "cannot be combined with `{first}` in one component"
            )));
        }
        found = Some((name, *read, value));
    }
    let hint = |key| hint(key, kinds.iter().map(|(name, _)| *name));
    let Some((name, read, value)) = found else {
        return Err(match unknown {
            None => node.error("the component has no kind"),
            Some((key, value)) => {
                let (shown, hint) = (shortened(key), hint(key));
                value.error(format!("unknown component kind `{shown}`{hint}"))
            }
        });
    };
    if let Some((key, value)) = unknown {
        let hint = hint(key);
        // The key may be a misspelt second kind, which must not be lost silently.
        if value.context.strict || !hint.is_empty() {
            return Err(value.error(format!("unknown key in a component with `{name}`{hint}")));
        }
        value.warn("unknown key, ignored");
    }
    match read {
        Some((read, _)) => Ok((value, read)),
        None => Err(value.error(format!(
            "the component `{name}` is not supported by the embedded engine of this version"
        ))),
    }
}
