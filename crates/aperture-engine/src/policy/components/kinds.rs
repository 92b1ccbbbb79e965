//! The kinds of components, each with its reader and its fields.

use super::keyed::KeyedComponent;
use super::{
    CircuitBuilder, ComponentLocation, DocumentNode, PolicyError, alerter, arithmetic_combinator,
    auto_scale, decider, gradient_controller, integrator, keyed, load_loop, load_ramp,
    load_scheduler, logic, nested_circuit, query, sampler, signal_generator, variable,
};
use crate::policy::decode::Section;
use crate::policy::model::{ConcurrencyLimiter, ConcurrencyScheduler, QuotaScheduler, RateLimiter};
use crate::policy::ports::ScopeIndex;
use crate::policy::suggest::hint;
use crate::policy::yaml::shortened;

/// Reads one component and adds it to the circuit.
pub(in crate::policy) type ComponentReader = for<'t> fn(
    DocumentNode<'t>,
    &ComponentLocation,
    &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError>;

/// The reader of a kind of component, and its fields.
type KindReader = (ComponentReader, &'static Section);

/// A kind of component by its name. A kind without a reader is refused by name.
pub(in crate::policy) type KnownKind = (&'static str, Option<KindReader>);

/// The kinds under `flow_control`.
pub(in crate::policy) const FLOW_CONTROL_KINDS: &[KnownKind] = &[
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
pub(in crate::policy) const CIRCUIT_KINDS: &[KnownKind] = &[
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

/// Reads a list of the components of a circuit, numbered from `first`.
pub(in crate::policy) fn read_list<'t>(
    node: &DocumentNode<'t>,
    scope: ScopeIndex,
    first: usize,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    for (index, component) in node.list()?.into_iter().enumerate() {
        let location = circuit.location(scope, first + index);
        read(&component, &location, circuit)?;
    }
    Ok(())
}

/// Reads one entry of a list of components.
fn read<'t>(
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
