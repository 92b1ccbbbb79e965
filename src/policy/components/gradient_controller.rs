//! `gradient_controller`: corrects a value by how far a signal is from where it should be.

use super::{At, Circuit, Computed, Op, Place, PolicyError, Wired};
use crate::policy::decode::Object;
use crate::policy::ports;

pub(super) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(&[
        "in_ports",
        "out_ports",
        "parameters",
        "manual_mode",
        "manual_mode_config_key",
    ])?;
    if fields.boolean("manual_mode", false)? {
        return Err(fields
            .at
            .error("`manual_mode` is not supported by the embedded engine of this version"));
    }
    fields.text("manual_mode_config_key")?;
    let op = gradient(&fields.required("parameters")?, (-f64::MAX, f64::MAX))?;
    let known = &["signal", "setpoint", "control_variable", "max", "min"];
    circuit.add(Wired {
        id: place.id.clone(),
        inputs: ports::optional(&fields, known, place.scope)?,
        outputs: ports::out_ports(&fields, &["output"], place.scope)?,
        part: Box::new(Computed(op)),
    });
    Ok(())
}

/// `slope` and what the gradient is kept within.
pub(super) fn gradient(at: &At<'_>, bounds: (f64, f64)) -> Result<Op, PolicyError> {
    let fields = at
        .clone()
        .object(&["slope", "min_gradient", "max_gradient"])?;
    Ok(Op::Gradient {
        slope: not_zero(&fields, "slope")?,
        min_gradient: fields.number("min_gradient", bounds.0)?,
        max_gradient: fields.number("max_gradient", bounds.1)?,
    })
}

pub(super) fn not_zero(fields: &Object<'_>, key: &str) -> Result<f64, PolicyError> {
    let at = fields.required(key)?;
    match at.number()? {
        0.0 => Err(at.error("must not be zero")),
        number => Ok(number),
    }
}
