//! Reads `range_driven_load_scheduler`: a curve over the signal determines the load.

use super::{
    CONFIRMATION, LOAD_SCHEDULER, LoopPorts, OUT_PORTS, add_common_components, check_alerter,
    read_ports,
};
use crate::policy::PolicyError;
use crate::policy::circuit::CircuitBuilder;
use crate::policy::components::alerter::REQUIRED_ALERTER;
use crate::policy::components::{
    ComponentLocation, RuntimeComponent, gradient_controller, load_scheduler,
};
use crate::policy::decode::{Bounds, DocumentNode, Field, FieldValue, Section};
use crate::policy::model::{Comparison, Op, PolynomialRange};
use crate::policy::ports;

/// The fields of a range-driven load scheduler.
pub(in crate::policy::components) static FIELDS: Section = Section::new(
    "Range-driven load scheduler",
    &[
        &[
            Field::optional(
                "in_ports",
                FieldValue::Section(&IN_PORTS),
                "The inputs. Without them, every flow passes.",
            ),
            OUT_PORTS,
            Field::required(
                "parameters",
                FieldValue::Section(&PARAMETERS),
                "The flows, and the curve of the load multiplier.",
            ),
        ],
        load_scheduler::DRY_RUN,
    ],
);

static IN_PORTS: Section = Section::new(
    "",
    &[&[
        ports::required_port("signal", "The value that is measured."),
        CONFIRMATION,
    ]],
);

static PARAMETERS: Section = Section::new(
    "Parameters of a range-driven load scheduler",
    &[&[
        LOAD_SCHEDULER,
        Field::required(
            "low_throttle_threshold",
            FieldValue::Section(&THRESHOLD),
            "The end of the curve at the smaller signal.",
        ),
        Field::required(
            "high_throttle_threshold",
            FieldValue::Section(&THRESHOLD),
            "The end of the curve at the larger signal.",
        ),
        Field::required(
            "degree",
            FieldValue::Number(Bounds::NotZero),
            "The exponent of the curve; 1 is a line.",
        ),
        REQUIRED_ALERTER,
    ]],
);

static THRESHOLD: Section = Section::new(
    "Throttle threshold",
    &[&[
        Field::with_default(
            "signal_value",
            FieldValue::Number(Bounds::None),
            "0",
            "The signal.",
        ),
        Field::with_default(
            "load_multiplier",
            FieldValue::Number(Bounds::Within(0.0, 1.0)),
            "0",
            "The load multiplier at this signal.",
        ),
    ]],
);

pub(in crate::policy) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&FIELDS)?;
    let ports = read_ports(&fields, &IN_PORTS, location, circuit)?;
    range(fields.required("parameters")?, location, ports, circuit)
}

/// Adds a load scheduler whose load multiplier follows a curve over the signal. The confirmation
/// does not affect the multiplier.
fn range<'t>(
    parameters: DocumentNode<'t>,
    location: &ComponentLocation,
    ports: LoopPorts<'t>,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = parameters.object(&PARAMETERS)?;
    let settings = load_scheduler::settings(fields.required("load_scheduler")?)?;
    let curve = PolynomialRange {
        low: threshold(fields.required("low_throttle_threshold")?)?,
        high: threshold(fields.required("high_throttle_threshold")?)?,
        degree: gradient_controller::not_zero(&fields, "degree")?,
    };
    check_alerter(&fields)?;

    let LoopPorts {
        signal,
        confirmation,
        outputs,
        dry_run,
        ..
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
    builder.add(
        6,
        vec![signal],
        "MULTIPLIER",
        RuntimeComponent(Op::PolynomialRange(curve)),
    );
    let (multiplier, one) = (builder.input("MULTIPLIER"), builder.constant(1.0));
    builder.add_decider(7, multiplier, Comparison::Lt, one, "OVERLOAD");
    let (multiplier, one) = (builder.input("MULTIPLIER"), builder.constant(1.0));
    builder.add_decider(8, multiplier, Comparison::Gte, one, "PASS_THROUGH");
    Ok(())
}

fn threshold(node: DocumentNode<'_>) -> Result<(f64, f64), PolicyError> {
    let fields = node.object(&THRESHOLD)?;
    let multiplier = fields.number("load_multiplier", 0.0)?;
    if !(0.0..=1.0).contains(&multiplier) {
        return Err(fields.node.error("`load_multiplier` must be from 0 to 1"));
    }
    Ok((fields.number("signal_value", 0.0)?, multiplier))
}
