//! `aiad_load_scheduler`: less step by step, and more step by step.

use super::aimd::STAYS;
use super::{Ports, around, check_alerter, ports};
use crate::policy::PolicyError;
use crate::policy::circuit::Circuit;
use crate::policy::components::{Computed, Place, load_scheduler, logic};
use crate::policy::decode::At;
use crate::policy::model::{Comparison, Op};

const CONTENT: &[&str] = &[
    "in_ports",
    "out_ports",
    "parameters",
    "overload_condition",
    "dry_run",
    "dry_run_config_key",
];

pub(in crate::policy) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(CONTENT)?;
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
    if max <= min {
        fields.at.warn(
            "lets everything pass: any load multiplier reaches `max_load_multiplier`, which is not \
             more than `min_load_multiplier`",
        );
    } else if decrement <= 0.0 {
        fields
            .at
            .warn("lets everything pass: `load_multiplier_linear_decrement` is not more than zero");
    } else if increment <= 0.0 {
        fields.at.warn(STAYS);
    }
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
