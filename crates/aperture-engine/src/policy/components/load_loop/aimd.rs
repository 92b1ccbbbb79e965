//! Reads `aimd_load_scheduler` and its old name, `adaptive_load_scheduler`: an overload lowers the
//! load by the ratio of signal and setpoint.

use super::{
    IN_PORTS, LOAD_SCHEDULER, LoopPorts, MAX_LOAD_MULTIPLIER, OUT_PORTS, SETPOINT_IN_PORTS,
    add_common_components, check_alerter, read_ports,
};
use crate::policy::PolicyError;
use crate::policy::circuit::CircuitBuilder;
use crate::policy::components::alerter::REQUIRED_ALERTER;
use crate::policy::components::{
    ComponentLocation, RuntimeComponent, combinator, gradient_controller, load_scheduler, logic,
};
use crate::policy::decode::{Bounds, DocumentNode, Field, FieldValue, Section};
use crate::policy::model::{Arithmetic, Comparison, Op};

/// The fields of an AIMD load scheduler, also under its old name.
pub(in crate::policy::components) static FIELDS: Section = Section::new(
    "AIMD load scheduler",
    &[
        &[
            IN_PORTS,
            OUT_PORTS,
            Field::required(
                "parameters",
                FieldValue::Section(&PARAMETERS),
                "The flows, and the correction of the load multiplier.",
            ),
        ],
        load_scheduler::DRY_RUN,
    ],
);

/// The parameters of an AIMD load scheduler, also of the one of a blueprint.
pub(in crate::policy) static PARAMETERS: Section = Section::new(
    "Parameters of an AIMD load scheduler",
    &[&[
        LOAD_SCHEDULER,
        Field::required(
            "gradient",
            FieldValue::Section(&gradient_controller::GRADIENT),
            "The correction in an overload.",
        ),
        MAX_LOAD_MULTIPLIER,
        Field::with_default(
            "load_multiplier_linear_increment",
            FieldValue::Number(Bounds::None),
            "0.025",
            "The increment at each evaluation without an overload; it grows while the recovery \
             lasts. `adaptive_load_scheduler`, the old name of the component, has 0.0025 without it.",
        ),
        REQUIRED_ALERTER,
    ]],
);

/// The warning about a `load_multiplier_linear_increment` that does not raise the load.
pub(super) const NEVER_RECOVERS: &str = "never recovers after an overload: \
     `load_multiplier_linear_increment` is not more than zero";

/// The default parameters of an AIMD loop.
#[derive(Clone, Copy)]
pub(in crate::policy) struct AimdDefaults {
    pub(in crate::policy) gradient: (f64, f64),
    pub(in crate::policy) increment: f64,
}

pub(in crate::policy) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    read_gradient(node, location, circuit, 0.025)
}

pub(in crate::policy) fn read_adaptive<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let message = "deprecated; use `aimd_load_scheduler` instead";
    if node.context.strict {
        return Err(node.error(message));
    }
    node.warn(message);
    read_gradient(node, location, circuit, 0.0025)
}

fn read_gradient<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
    increment: f64,
) -> Result<(), PolicyError> {
    let fields = node.object(&FIELDS)?;
    let ports = read_ports(&fields, &SETPOINT_IN_PORTS, location, circuit)?;
    let defaults = AimdDefaults {
        gradient: (-f64::MAX, f64::MAX),
        increment,
    };
    aimd(
        fields.required("parameters")?,
        location,
        ports,
        defaults,
        circuit,
    )
}

/// Adds a load scheduler in an AIMD control loop: additive increase, multiplicative decrease.
pub(in crate::policy) fn aimd<'t>(
    parameters: DocumentNode<'t>,
    location: &ComponentLocation,
    ports: LoopPorts<'t>,
    defaults: AimdDefaults,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = parameters.object(&PARAMETERS)?;
    let settings = load_scheduler::settings(fields.required("load_scheduler")?)?;
    let gradient = gradient_controller::gradient(&fields.required("gradient")?, defaults.gradient)?;
    let max = fields.number("max_load_multiplier", 2.0)?;
    let increment = fields.number("load_multiplier_linear_increment", defaults.increment)?;
    if max <= 0.0 {
        fields
            .node
            .warn("lets everything pass: any load multiplier reaches `max_load_multiplier`");
    } else if increment <= 0.0 {
        fields.node.warn(NEVER_RECOVERS);
    }
    check_alerter(&fields)?;

    let comparison = match gradient {
        Op::Gradient { slope, .. } if slope > 0.0 => Comparison::Lt,
        _ => Comparison::Gt,
    };
    let LoopPorts {
        signal,
        setpoint,
        confirmation,
        outputs,
        dry_run,
    } = ports;
    let mut builder = add_common_components(
        fields.node.clone(),
        location,
        confirmation,
        outputs,
        dry_run,
        settings,
        circuit,
    );
    builder.add_decider(6, signal.clone(), comparison, setpoint.clone(), "OVERLOAD");
    let correction = vec![
        signal,
        setpoint,
        builder.input("OBSERVED"),
        builder.constant(f64::NAN),
        builder.constant(f64::NAN),
    ];
    builder.add(7, correction, "CUT", RuntimeComponent(gradient));
    let sum = vec![
        builder.constant(increment),
        builder.input("IS_OVERLOAD"),
        builder.constant(max),
        builder.constant(f64::NAN),
    ];
    builder.add(
        8,
        sum,
        "RECOVERY",
        RuntimeComponent(Op::Integrator { initial: max }),
    );
    let more = vec![builder.input("OBSERVED"), builder.input("RECOVERY")];
    builder.add_boxed(9, more, "RAISED", combinator(Arithmetic::Add));
    let choice = vec![
        builder.input("IS_OVERLOAD"),
        builder.input("CUT"),
        builder.input("RAISED"),
    ];
    builder.add(10, choice, "MULTIPLIER", logic::Switcher);
    let (multiplier, max) = (builder.input("MULTIPLIER"), builder.constant(max));
    builder.add_decider(11, multiplier, Comparison::Gte, max, "PASS_THROUGH");
    Ok(())
}
