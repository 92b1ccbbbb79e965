//! Reads `integrator`, which sums a signal over time.

use super::{
    CircuitBuilder, ComponentLocation, DocumentNode, Op, PolicyError, RuntimeComponent,
    WiredComponent,
};
use crate::policy::decode::{Bounds, Field, FieldValue, Section};
use crate::policy::ports;

/// The fields of an integrator.
pub(super) static FIELDS: Section = Section::new(
    "Integrator",
    &[&[
        Field::optional("in_ports", FieldValue::Section(&IN_PORTS), "The inputs."),
        ports::OUTPUT,
        Field::with_default(
            "initial_value",
            FieldValue::Number(Bounds::None),
            "0",
            "The sum at the start.",
        ),
    ]],
);

static IN_PORTS: Section = Section::new(
    "",
    &[&[
        ports::port("input", "Added to the sum at each evaluation."),
        ports::port("reset", "Sets the sum to zero while it is on."),
        ports::port("max", "The largest sum."),
        ports::port("min", "The smallest sum."),
    ]],
);

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&FIELDS)?;
    let initial = fields.number("initial_value", 0.0)?;
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs: ports::optional_in_ports(&fields, &IN_PORTS, location.scope)?,
        outputs: ports::out_ports(&fields, &ports::ONE_OUTPUT, location.scope)?,
        behaviour: Box::new(RuntimeComponent(Op::Integrator { initial })),
    });
    Ok(())
}
