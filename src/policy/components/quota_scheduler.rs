//! `quota_scheduler`: a token bucket that flows queue for.

use super::bucket::{self, Takers};
use super::{At, Circuit, Decides, Place, PolicyError, scheduler};
use crate::policy::decode::Object;
use crate::policy::model::{ComponentKind, QuotaScheduler};
use crate::policy::ports::{self, InPort, OutPort};
use crate::policy::selector;

pub(super) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(&[
        "in_ports",
        "out_ports",
        "selectors",
        "rate_limiter",
        "scheduler",
    ])?;
    let inputs = bucket::wires(&fields, place.scope)?;
    let outputs = ports::out_ports(&fields, &["accept_percentage"], place.scope)?;
    add(&fields, place, inputs, outputs, circuit)
}

/// The section of a blueprint's values, where the signals are plain numbers.
pub(in crate::policy) fn read_values<'t>(
    at: At<'t>,
    place: &Place,
    output: OutPort<'t>,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(&[
        "bucket_capacity",
        "fill_amount",
        "selectors",
        "rate_limiter",
        "scheduler",
        "alerter",
    ])?;
    let inputs = bucket::numbers(&fields)?;
    add(&fields, place, inputs, vec![output], circuit)
}

fn add<'t>(
    fields: &Object<'t>,
    place: &Place,
    inputs: Vec<InPort<'t>>,
    outputs: Vec<OutPort<'t>>,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let selectors = selector::selectors(fields, "selectors")?;
    let settings = bucket::settings(fields.required("rate_limiter")?)?;
    let scheduler = scheduler::read(fields, scheduler::Under::Lookups)?;
    let at = fields.at.clone();
    let part = Decides::new("quota scheduler", place, selectors, move |inputs| {
        Ok(ComponentKind::QuotaScheduler(QuotaScheduler {
            bucket: bucket::wired(&settings, &at, inputs, Takers::Queued)?,
            scheduler: scheduler.clone(),
        }))
    });
    circuit.add(part.wired(place, inputs, outputs));
    Ok(())
}
