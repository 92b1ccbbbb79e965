//! `query`: a signal from a database of metrics, or from the flux meters of this process.

use std::sync::Arc;
use std::time::Duration;

use super::{At, Circuit, Computed, Op, Place, PolicyError, Wired, more_than_zero};
use crate::policy::ports;
use crate::policy::promql;

/// How often a query is asked where a policy does not say.
pub(in crate::policy) const INTERVAL: Duration = Duration::from_secs(10);

pub(super) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let kind = at.object(&["promql"])?;
    let fields =
        kind.required("promql")?
            .object(&["query_string", "evaluation_interval", "out_ports"])?;
    let text = fields.text("query_string")?.unwrap_or_default();
    let interval = match fields.scalar("evaluation_interval") {
        Some(at) => more_than_zero(&at)?,
        None => INTERVAL,
    };
    circuit.add(Wired {
        id: place.id.clone(),
        inputs: Vec::new(),
        outputs: ports::out_ports(&fields, &["output"], place.scope)?,
        part: Box::new(Computed(op(text, interval, circuit.policy()))),
    });
    Ok(())
}

/// What reads flux meters of this policy is answered in process.
pub(in crate::policy) fn op(text: &str, interval: Duration, policy: &str) -> Op {
    promql::flux_meter(text, policy, interval).unwrap_or_else(|| Op::Query {
        text: Arc::from(text),
        interval,
    })
}
