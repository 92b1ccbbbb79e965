//! `aimd_load_scheduler`, and its old name: what is too much is cut by how far it is off.

use super::{CONTENT, Ports, around, check_alerter, ports};
use crate::policy::PolicyError;
use crate::policy::circuit::Circuit;
use crate::policy::components::{
    Computed, Place, combinator, gradient_controller, load_scheduler, logic,
};
use crate::policy::decode::At;
use crate::policy::model::{Arithmetic, Comparison, Op};

/// What follows from a `load_multiplier_linear_increment` that increments nothing.
pub(super) const STAYS: &str = "lets no more in after an overload: \
                                `load_multiplier_linear_increment` is not more than zero";

/// Where an AIMD loop has no parameter of its own.
#[derive(Clone, Copy)]
pub(in crate::policy) struct AimdDefaults {
    pub(in crate::policy) gradient: (f64, f64),
    pub(in crate::policy) increment: f64,
}

pub(in crate::policy) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    read_gradient(at, place, circuit, 0.025)
}

pub(in crate::policy) fn read_adaptive<'t>(
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
    if max <= 0.0 {
        fields
            .at
            .warn("lets everything pass: any load multiplier reaches `max_load_multiplier`");
    } else if increment <= 0.0 {
        fields.at.warn(STAYS);
    }
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
    parts.boxed(9, more, "RAISED", combinator(Arithmetic::Add));
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
