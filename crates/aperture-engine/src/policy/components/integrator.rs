//! Reads `integrator`, which sums a signal over time.

use super::{
    CircuitBuilder, ComponentLocation, DocumentNode, Op, PolicyError, RuntimeComponent,
    WiredComponent,
};
use crate::policy::ports;

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&["in_ports", "out_ports", "initial_value"])?;
    let initial = fields.number("initial_value", 0.0)?;
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs: ports::optional_in_ports(
            &fields,
            &["input", "reset", "max", "min"],
            location.scope,
        )?,
        outputs: ports::out_ports(&fields, &["output"], location.scope)?,
        behaviour: Box::new(RuntimeComponent(Op::Integrator { initial })),
    });
    Ok(())
}
