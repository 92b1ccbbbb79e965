//! Reads `aiad_load_scheduler`, which lowers and raises the load in linear steps.

use super::aimd::NEVER_RECOVERS;
use super::{
    IN_PORTS, LOAD_SCHEDULER, LoopPorts, MAX_LOAD_MULTIPLIER, OUT_PORTS, SETPOINT_IN_PORTS,
    add_common_components, check_alerter, read_ports,
};
use crate::policy::PolicyError;
use crate::policy::circuit::CircuitBuilder;
use crate::policy::components::alerter::REQUIRED_ALERTER;
use crate::policy::components::{ComponentLocation, RuntimeComponent, load_scheduler, logic};
use crate::policy::decode::{Bounds, DocumentNode, Field, FieldValue, Section};
use crate::policy::model::{Comparison, Op};

/// The fields of an AIAD load scheduler.
pub(in crate::policy::components) static FIELDS: Section = Section::new(
    "AIAD load scheduler",
    &[
        &[
            IN_PORTS,
            OUT_PORTS,
            Field::required(
                "parameters",
                FieldValue::Section(&PARAMETERS),
                "The flows, and the steps of the load multiplier.",
            ),
            Field::with_default(
                "overload_condition",
                FieldValue::OneOf(OVERLOAD_CONDITIONS),
                "gt",
                "The comparison of the signal with the setpoint that means overload.",
            ),
        ],
        load_scheduler::DRY_RUN,
    ],
);

/// The comparisons that may mean overload.
pub(in crate::policy) const OVERLOAD_CONDITIONS: &[&str] = &["gt", "lt", "gte", "lte"];

/// The parameters of an AIAD load scheduler, also of the one of a blueprint.
pub(in crate::policy) static PARAMETERS: Section = Section::new(
    "Parameters of an AIAD load scheduler",
    &[&[
        LOAD_SCHEDULER,
        Field::with_default(
            "min_load_multiplier",
            FieldValue::Number(Bounds::None),
            "0",
            "The smallest load multiplier.",
        ),
        MAX_LOAD_MULTIPLIER,
        Field::with_default(
            "load_multiplier_linear_decrement",
            FieldValue::Number(Bounds::None),
            "0.05",
            "The decrement at each evaluation with an overload.",
        ),
        Field::with_default(
            "load_multiplier_linear_increment",
            FieldValue::Number(Bounds::None),
            "0.025",
            "The increment at each evaluation without an overload.",
        ),
        REQUIRED_ALERTER,
    ]],
);

pub(in crate::policy) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&FIELDS)?;
    let ports = read_ports(&fields, &SETPOINT_IN_PORTS, location, circuit)?;
    let condition = match fields.scalar("overload_condition") {
        Some(node) => overload_condition(&node)?,
        None => Comparison::Gt,
    };
    aiad(
        fields.required("parameters")?,
        location,
        ports,
        condition,
        circuit,
    )
}

/// Reads the comparison of the signal with its setpoint that means overload.
pub(in crate::policy) fn overload_condition(
    node: &DocumentNode<'_>,
) -> Result<Comparison, PolicyError> {
    node.one_of(OVERLOAD_CONDITIONS).map(Comparison::from_name)
}

/// Adds a load scheduler in an AIAD control loop: additive increase, additive decrease.
pub(in crate::policy) fn aiad<'t>(
    parameters: DocumentNode<'t>,
    location: &ComponentLocation,
    ports: LoopPorts<'t>,
    condition: Comparison,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = parameters.object(&PARAMETERS)?;
    let settings = load_scheduler::settings(fields.required("load_scheduler")?)?;
    let min = fields.number("min_load_multiplier", 0.0)?;
    let max = fields.number("max_load_multiplier", 2.0)?;
    let decrement = fields.number("load_multiplier_linear_decrement", 0.05)?;
    let increment = fields.number("load_multiplier_linear_increment", 0.025)?;
    if max <= min {
        fields.node.warn(
            "lets everything pass: any load multiplier reaches `max_load_multiplier`, which is not \
             more than `min_load_multiplier`",
        );
    } else if decrement <= 0.0 {
        fields
            .node
            .warn("lets everything pass: `load_multiplier_linear_decrement` is not more than zero");
    } else if increment <= 0.0 {
        fields.node.warn(NEVER_RECOVERS);
    }
    check_alerter(&fields)?;

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
    builder.add_decider(6, signal, condition, setpoint, "OVERLOAD");
    let step = vec![
        builder.input("IS_OVERLOAD"),
        builder.constant(-decrement),
        builder.constant(increment),
    ];
    builder.add(7, step, "STEP", logic::Switcher);
    let most = vec![
        builder.input("IS_OVERLOAD"),
        builder.constant(1.0 - decrement),
        builder.constant(max),
    ];
    builder.add(8, most, "MOST", logic::Switcher);
    let sum = vec![
        builder.input("STEP"),
        builder.constant(f64::NAN),
        builder.input("MOST"),
        builder.constant(min),
    ];
    builder.add(
        9,
        sum,
        "MULTIPLIER",
        RuntimeComponent(Op::Integrator { initial: max }),
    );
    let (multiplier, max) = (builder.input("MULTIPLIER"), builder.constant(max));
    builder.add_decider(10, multiplier, Comparison::Gte, max, "PASS_THROUGH");
    Ok(())
}
