//! Reads `query`: a signal from a metrics database, or from the flux meters of this process.

use std::sync::Arc;
use std::time::Duration;

use super::{
    CircuitBuilder, ComponentLocation, DocumentNode, Op, PolicyError, RuntimeComponent,
    WiredComponent, positive_duration,
};
use crate::policy::ports;
use crate::policy::promql;

/// The interval of a query that does not set one.
pub(in crate::policy) const INTERVAL: Duration = Duration::from_secs(10);

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let kind = node.object(&["promql"])?;
    let fields =
        kind.required("promql")?
            .object(&["query_string", "evaluation_interval", "out_ports"])?;
    let text = fields.text("query_string")?.unwrap_or_default();
    let interval = match fields.scalar("evaluation_interval") {
        Some(node) => positive_duration(&node)?,
        None => INTERVAL,
    };
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs: Vec::new(),
        outputs: ports::out_ports(&fields, &["output"], location.scope)?,
        behaviour: Box::new(RuntimeComponent(op(text, interval, circuit.policy()))),
    });
    Ok(())
}

/// Returns the operation of a query. Queries over flux meters of this policy are answered in
/// process.
pub(in crate::policy) fn op(text: &str, interval: Duration, policy: &str) -> Op {
    promql::flux_meter(text, policy, interval).unwrap_or_else(|| Op::Query {
        text: Arc::from(text),
        interval,
    })
}
