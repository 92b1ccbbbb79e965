//! The kinds of components: a file and a line each.

mod alerter;
mod arithmetic_combinator;
mod auto_scale;
mod bucket;
mod concurrency_limiter;
mod concurrency_scheduler;
mod decider;
mod gradient_controller;
mod integrator;
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
use super::circuit::Circuit;
use super::decode::{At, Object};
use super::model::{ComponentKind, Op, RequestParameters, Selector};
use super::ports::{Carried, InPort, Inputs, OutPort, Scope};
use super::status_code;
use super::suggest::hint;
use super::yaml::shortened;

pub(super) use self::alerter::{alerter, check_parameters as check_alerter};
pub(super) use self::arithmetic_combinator::combinator;
pub(super) use self::auto_scale::{NOTE as SCALES_NOTHING, auto_scale};
pub(super) use self::concurrency_limiter::read_values as concurrency_limiter_values;
pub(super) use self::concurrency_scheduler::read_values as concurrency_scheduler_values;
pub(super) use self::decider::decider;
pub(super) use self::load_loop::{
    AimdDefaults, Ports as LoopPorts, aiad, aimd, overload_condition,
};
pub(super) use self::load_ramp::add as load_ramp;
pub(super) use self::load_scheduler::DryRun;
pub(super) use self::logic::{ALL, ANY, FirstValid, Inverter};
pub(super) use self::query::{INTERVAL as QUERY_INTERVAL, op as query_op};
pub(super) use self::quota_scheduler::read_values as quota_scheduler_values;
pub(super) use self::rate_limiter::read_values as rate_limiter_values;
pub(super) use self::variable::steady;

/// Reads one component and adds it to the circuit.
type Read = for<'t> fn(At<'t>, &Place, &mut Circuit<'t>) -> Result<(), PolicyError>;

/// Where a component stands.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) id: String,
    pub(super) scope: Scope,
}

/// Kinds under `flow_control`; without a reader, they are refused by name.
const FLOW_CONTROL: &[(&str, Option<Read>)] = &[
    ("rate_limiter", Some(rate_limiter::read)),
    ("quota_scheduler", Some(quota_scheduler::read)),
    ("concurrency_limiter", Some(concurrency_limiter::read)),
    ("concurrency_scheduler", Some(concurrency_scheduler::read)),
    ("load_scheduler", Some(load_scheduler::read)),
    ("aimd_load_scheduler", Some(load_loop::read_aimd)),
    ("adaptive_load_scheduler", Some(load_loop::read_adaptive)),
    ("aiad_load_scheduler", Some(load_loop::read_aiad)),
    ("range_driven_load_scheduler", Some(load_loop::read_range)),
    ("sampler", Some(sampler::read)),
    ("load_ramp", Some(load_ramp::read)),
];

/// Kinds of a circuit's components; the first is a family of its own.
const CIRCUIT: &[(&str, Option<Read>)] = &[
    ("flow_control", Some(read_flow_control)),
    ("variable", Some(variable::read)),
    ("bool_variable", Some(variable::read_bool)),
    ("arithmetic_combinator", Some(arithmetic_combinator::read)),
    ("decider", Some(decider::read)),
    ("alerter", Some(alerter::read)),
    ("nested_circuit", Some(nested_circuit::read)),
    ("nested_signal_ingress", Some(nested_circuit::read_ingress)),
    ("nested_signal_egress", Some(nested_circuit::read_egress)),
    ("gradient_controller", Some(gradient_controller::read)),
    ("ema", None),
    ("switcher", Some(logic::read_switcher)),
    ("sma", None),
    ("unary_operator", None),
    ("extrapolator", None),
    ("max", None),
    ("min", None),
    ("first_valid", Some(logic::read_first_valid)),
    ("integrator", Some(integrator::read)),
    ("differentiator", None),
    ("and", Some(logic::read_and)),
    ("or", Some(logic::read_or)),
    ("inverter", Some(logic::read_inverter)),
    ("pulse_generator", None),
    ("holder", None),
    ("signal_generator", Some(signal_generator::read)),
    ("pid_controller", None),
    ("polynomial_range_function", None),
    ("query", Some(query::read)),
    ("auto_scale", Some(auto_scale::read)),
];

/// What a component does with the signals at its ports.
pub(super) trait Part {
    /// What its out-ports carry, in the order it declared them.
    fn carry(&self, _inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        Vec::new()
    }

    /// What computes the out-ports that [`carry`](Self::carry) leaves to the running engine.
    fn op(&self) -> Option<Op> {
        None
    }

    /// Whether [`decide`](Self::decide) gives something.
    fn decides(&self) -> bool {
        false
    }

    /// Whether what it decides by does not matter now.
    fn is_idle(&self) -> bool {
        false
    }

    /// What the engine runs, when this component decides about flows.
    fn decide(&self, _inputs: &Inputs<'_, '_>) -> Result<Option<Deciding>, PolicyError> {
        Ok(None)
    }
}

/// A component that decides.
pub(super) type Deciding = (Vec<Selector>, ComponentKind);

/// A component with its wires.
pub(super) struct Wired<'t> {
    pub(super) id: String,
    pub(super) inputs: Vec<InPort<'t>>,
    pub(super) outputs: Vec<OutPort<'t>>,
    pub(super) part: Box<dyn Part + 't>,
}

/// Always computed by the running engine.
pub(super) struct Computed(pub(super) Op);

impl Part for Computed {
    fn carry(&self, inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        vec![inputs.computed(0)]
    }

    fn op(&self) -> Option<Op> {
        Some(self.0.clone())
    }
}

/// Makes what the engine runs from what stands at the in-ports.
type Make<'t> = dyn Fn(&Inputs<'_, '_>) -> Result<ComponentKind, PolicyError> + 't;

/// A component that decides; what it measures is not followed here.
pub(super) struct Decides<'t> {
    origin: Rc<str>,
    selectors: Vec<Selector>,
    make: Box<Make<'t>>,
    idle: bool,
}

impl<'t> Decides<'t> {
    fn new(
        what: &str,
        place: &Place,
        selectors: Vec<Selector>,
        make: impl Fn(&Inputs<'_, '_>) -> Result<ComponentKind, PolicyError> + 't,
    ) -> Self {
        Self {
            origin: Rc::from(format!("what the {what} `{}` measures", place.id)),
            selectors,
            make: Box::new(make),
            idle: false,
        }
    }

    /// Everything passes, whatever stands at its ports.
    fn idle(mut self, idle: bool) -> Self {
        self.idle = idle;
        self
    }

    fn wired(self, place: &Place, inputs: Vec<InPort<'t>>, outputs: Vec<OutPort<'t>>) -> Wired<'t> {
        Wired {
            id: place.id.clone(),
            inputs,
            outputs,
            part: Box::new(self),
        }
    }
}

impl Part for Decides<'_> {
    fn carry(&self, _inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        vec![Carried::Beyond(Rc::clone(&self.origin))]
    }

    fn decides(&self) -> bool {
        true
    }

    fn is_idle(&self) -> bool {
        self.idle
    }

    fn decide(&self, inputs: &Inputs<'_, '_>) -> Result<Option<Deciding>, PolicyError> {
        Ok(Some((self.selectors.clone(), (self.make)(inputs)?)))
    }
}

/// `request_parameters` of a limiter.
fn request_parameters(fields: &Object<'_>) -> Result<RequestParameters, PolicyError> {
    let request = fields.object(
        "request_parameters",
        &["tokens_label_key", "denied_response_status_code"],
    )?;
    let mut parameters = RequestParameters::default();
    if let Some(fields) = request {
        parameters.tokens_label_key = fields.text("tokens_label_key")?.and_then(named);
        if let Some(at) = fields.scalar("denied_response_status_code") {
            parameters.denied_response_status_code = status_code::decode(&at)?;
        }
    }
    Ok(parameters)
}

/// An empty name is none.
fn named(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| Arc::from(text))
}

/// Zero for what is negative.
pub(super) fn positive(nanos: i128) -> Duration {
    const NANOS: u128 = 1_000_000_000;
    let nanos = u128::try_from(nanos).unwrap_or(0);
    // Twelve digits of seconds at most, so neither part overflows.
    Duration::new((nanos / NANOS) as u64, (nanos % NANOS) as u32)
}

/// A duration that an Agent would accept at zero and then open everything.
pub(super) fn more_than_zero(at: &At<'_>) -> Result<Duration, PolicyError> {
    match positive(at.duration()?) {
        Duration::ZERO => Err(at.error("must be more than zero")),
        duration => Ok(duration),
    }
}

/// One entry of a list of components.
pub(super) fn read<'t>(
    at: &At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let (at, read) = kind(at, CIRCUIT)?;
    read(at, place, circuit)
}

#[allow(clippy::needless_pass_by_value)] // The shape that all readers share.
fn read_flow_control<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let (at, read) = kind(&at, FLOW_CONTROL)?;
    read(at, place, circuit)
}

/// The one known key of a component, with its reader.
fn kind<'t>(
    at: &At<'t>,
    kinds: &'static [(&'static str, Option<Read>)],
) -> Result<(At<'t>, Read), PolicyError> {
    let mut found: Option<(&str, Option<Read>, At<'t>)> = None;
    let mut unknown: Option<(&str, At<'t>)> = None;
    if at.is_null() {
        return Err(at.error("a component without a kind"));
    }
    for (key, value) in at.free_map()? {
        let Some((name, read)) = kinds.iter().find(|(name, _)| *name == key) else {
            unknown = unknown.or(Some((key, value)));
            continue;
        };
        if value.is_null() {
            continue;
        }
        if let Some((first, ..)) = found {
            return Err(value.error(format!("cannot stand beside `{first}` in one component")));
        }
        found = Some((name, *read, value));
    }
    let hint = |key| hint(key, kinds.iter().map(|(name, _)| *name));
    let Some((name, read, value)) = found else {
        return Err(match unknown {
            None => at.error("a component without a kind"),
            Some((key, value)) => {
                let (shown, hint) = (shortened(key), hint(key));
                value.error(format!("unknown component kind `{shown}`{hint}"))
            }
        });
    };
    if let Some((key, value)) = unknown {
        let hint = hint(key);
        // A second kind in another spelling would be lost silently.
        if value.context.strict || !hint.is_empty() {
            return Err(value.error(format!("unknown key beside `{name}`{hint}")));
        }
        value.warn("unknown key, ignored");
    }
    match read {
        Some(read) => Ok((value, read)),
        None => Err(value.error(format!(
            "the component `{name}` is not supported by the embedded engine of this version"
        ))),
    }
}
