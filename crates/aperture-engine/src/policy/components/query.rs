//! Reads `query`: a signal from a metrics database, or from the flux meters of this process.

use std::sync::Arc;
use std::time::Duration;

use super::{
    CircuitBuilder, ComponentLocation, DocumentNode, Op, PolicyError, RuntimeComponent,
    WiredComponent, positive_duration,
};
use crate::policy::decode::{Field, FieldValue, Section};
use crate::policy::ports;
use crate::policy::promql;

/// The interval of a query that does not set one.
pub(in crate::policy) const INTERVAL: Duration = Duration::from_secs(10);

/// The fields of a query.
pub(super) static FIELDS: Section = Section::new(
    "Query",
    &[&[Field::required(
        "promql",
        FieldValue::Section(&PROMQL),
        "A query in PromQL.",
    )]],
);

static PROMQL: Section = Section::new(
    "",
    &[&[
        Field::optional(
            "query_string",
            FieldValue::Text,
            "The query. The engine answers queries over flux meters in the form that blueprints \
             write. Others need a `SignalSource`.",
        ),
        Field::with_default(
            "evaluation_interval",
            FieldValue::PositiveDuration,
            "10s",
            "The time between two queries.",
        ),
        ports::OUTPUT,
    ]],
);

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let kind = node.object(&FIELDS)?;
    let fields = kind.required("promql")?.object(&PROMQL)?;
    let text = fields.text("query_string")?.unwrap_or_default();
    let interval = match fields.scalar("evaluation_interval") {
        Some(node) => positive_duration(&node)?,
        None => INTERVAL,
    };
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs: Vec::new(),
        outputs: ports::out_ports(&fields, &ports::ONE_OUTPUT, location.scope)?,
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
