//! Reads `gradient_controller`, which corrects a value by the ratio of a signal to its setpoint.

use super::{
    CircuitBuilder, ComponentLocation, DocumentNode, Op, PolicyError, RuntimeComponent,
    WiredComponent,
};
use crate::policy::decode::{Bounds, Field, FieldValue, Object, Section};
use crate::policy::ports;

/// The fields of a gradient controller.
pub(super) static FIELDS: Section = Section::new(
    "Gradient controller",
    &[&[
        Field::optional("in_ports", FieldValue::Section(&IN_PORTS), "The inputs."),
        ports::OUTPUT,
        Field::required(
            "parameters",
            FieldValue::Section(&GRADIENT),
            "The gradient.",
        ),
        Field::with_default(
            "manual_mode",
            FieldValue::Boolean,
            "false",
            "True is not supported.",
        ),
        Field::optional("manual_mode_config_key", FieldValue::Text, "Has no effect."),
    ]],
);

static IN_PORTS: Section = Section::new(
    "",
    &[&[
        ports::port("signal", "The value that is measured."),
        ports::port("setpoint", "The value that is wanted."),
        ports::port("control_variable", "The value that the gradient corrects."),
        ports::port("max", "The largest output."),
        ports::port("min", "The smallest output."),
    ]],
);

/// The gradient of a controller or a control loop.
pub(super) static GRADIENT: Section = Section::new(
    "Gradient",
    &[&[
        Field::required(
            "slope",
            FieldValue::Number(Bounds::NotZero),
            "The exponent of the ratio of signal and setpoint. Less than zero lowers the output \
             while the signal is high.",
        ),
        Field::optional(
            "min_gradient",
            FieldValue::Number(Bounds::None),
            "The smallest factor. Without it 0.1 in `load-scheduling/average-latency`, and no bound \
             elsewhere.",
        ),
        Field::optional(
            "max_gradient",
            FieldValue::Number(Bounds::None),
            "The largest factor. Without it 1 in `load-scheduling/average-latency`, and no bound \
             elsewhere.",
        ),
    ]],
);

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&FIELDS)?;
    if fields.boolean("manual_mode", false)? {
        return Err(fields
            .node
            .error("`manual_mode` is not supported by the embedded engine of this version"));
    }
    fields.text("manual_mode_config_key")?;
    let op = gradient(&fields.required("parameters")?, (-f64::MAX, f64::MAX))?;
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs: ports::optional_in_ports(&fields, &IN_PORTS, location.scope)?,
        outputs: ports::out_ports(&fields, &ports::ONE_OUTPUT, location.scope)?,
        behaviour: Box::new(RuntimeComponent(op)),
    });
    Ok(())
}

/// Reads `slope` and the bounds of the gradient; `bounds` are the default bounds.
pub(super) fn gradient(node: &DocumentNode<'_>, bounds: (f64, f64)) -> Result<Op, PolicyError> {
    let fields = node.clone().object(&GRADIENT)?;
    Ok(Op::Gradient {
        slope: not_zero(&fields, "slope")?,
        min_gradient: fields.number("min_gradient", bounds.0)?,
        max_gradient: fields.number("max_gradient", bounds.1)?,
    })
}

pub(super) fn not_zero(fields: &Object<'_>, key: &str) -> Result<f64, PolicyError> {
    let node = fields.required(key)?;
    match node.number()? {
        0.0 => Err(node.error("must not be zero")),
        number => Ok(number),
    }
}
