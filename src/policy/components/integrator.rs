//! `integrator`: adds up a signal.

use super::{At, Circuit, Computed, Op, Place, PolicyError, Wired};
use crate::policy::ports;

pub(super) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(&["in_ports", "out_ports", "initial_value"])?;
    let initial = fields.number("initial_value", 0.0)?;
    circuit.add(Wired {
        id: place.id.clone(),
        inputs: ports::optional(&fields, &["input", "reset", "max", "min"], place.scope)?,
        outputs: ports::out_ports(&fields, &["output"], place.scope)?,
        part: Box::new(Computed(Op::Integrator { initial })),
    });
    Ok(())
}
