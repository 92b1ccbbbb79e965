//! Reads the components of a circuit. Each kind has a file of its own and a line in one of the
//! lists of [`kinds`].

mod alerter;
mod arithmetic_combinator;
mod auto_scale;
mod bucket;
mod concurrency_limiter;
mod concurrency_scheduler;
mod decider;
mod deciding;
mod gradient_controller;
mod integrator;
mod keyed;
mod kinds;
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

use std::sync::Arc;
use std::time::Duration;

use self::deciding::DecidingComponent;
use super::PolicyError;
use super::circuit::CircuitBuilder;
pub(super) use super::circuit::{
    ComponentBehaviour, ComponentLocation, RuntimeComponent, SignalForwarder, WiredComponent,
};
use super::decode::{DocumentNode, Field, FieldValue, Object, Section};
use super::model::{Op, RequestParameters};
use super::ports::{FoldedSignal, InPort, InputSignals};
use super::status_code;

pub(super) use self::alerter::{alerter, check_parameters as check_alerter};
pub(super) use self::arithmetic_combinator::combinator;
pub(super) use self::auto_scale::{NO_SCALING, auto_scale};
pub(super) use self::decider::decider;
pub(super) use self::keyed::{KeyedComponent, read_values as keyed_values};
pub(super) use self::kinds::read_list;
#[cfg(test)]
pub(super) use self::kinds::{CIRCUIT_KINDS, FLOW_CONTROL_KINDS, KnownKind};
pub(super) use self::load_loop::{
    AIAD_PARAMETERS, AIMD_PARAMETERS, AimdDefaults, LoopPorts, OVERLOAD_CONDITIONS, aiad, aimd,
    overload_condition,
};
pub(super) use self::load_ramp::{PARAMETERS as LOAD_RAMP_PARAMETERS, add as load_ramp};
pub(super) use self::load_scheduler::DryRunSetting;
pub(super) use self::logic::{AND, FirstValid, Inverter, OR};
pub(super) use self::query::{INTERVAL as QUERY_INTERVAL, op as query_op};
pub(super) use self::variable::constant_variable;

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
