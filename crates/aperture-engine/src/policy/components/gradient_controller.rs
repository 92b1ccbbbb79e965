//! Reads `gradient_controller`, which corrects a value by the ratio of a signal to its setpoint.

use super::{
    CircuitBuilder, ComponentLocation, DocumentNode, Op, PolicyError, RuntimeComponent,
    WiredComponent,
};
use crate::policy::decode::Object;
use crate::policy::ports;

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&[
        "in_ports",
        "out_ports",
        "parameters",
        "manual_mode",
        "manual_mode_config_key",
    ])?;
    if fields.boolean("manual_mode", false)? {
        return Err(fields
            .node
            .error("`manual_mode` is not supported by the embedded engine of this version"));
    }
    fields.text("manual_mode_config_key")?;
    let op = gradient(&fields.required("parameters")?, (-f64::MAX, f64::MAX))?;
    let known = &["signal", "setpoint", "control_variable", "max", "min"];
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs: ports::optional_in_ports(&fields, known, location.scope)?,
        outputs: ports::out_ports(&fields, &["output"], location.scope)?,
        behaviour: Box::new(RuntimeComponent(op)),
    });
    Ok(())
}

/// Reads `slope` and the bounds of the gradient; `bounds` are the default bounds.
pub(super) fn gradient(node: &DocumentNode<'_>, bounds: (f64, f64)) -> Result<Op, PolicyError> {
    let fields = node
        .clone()
        .object(&["slope", "min_gradient", "max_gradient"])?;
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
