//! `concurrency_scheduler`: slots that flows queue for.

use super::{At, Circuit, Decides, Place, PolicyError, scheduler, slots};
use crate::policy::decode::Object;
use crate::policy::model::{ComponentKind, ConcurrencyScheduler};
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
        "concurrency_limiter",
        "scheduler",
    ])?;
    let inputs = slots::wires(&fields, place.scope)?;
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
        "max_concurrency",
        "selectors",
        "concurrency_limiter",
        "scheduler",
        "alerter",
    ])?;
    let inputs = slots::numbers(&fields)?;
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
    let settings = slots::settings(fields.required("concurrency_limiter")?)?;
    let scheduler = scheduler::read(fields, scheduler::Under::Lookups)?;
    let at = fields.at.clone();
    let part = Decides::new("concurrency scheduler", place, selectors, move |inputs| {
        Ok(ComponentKind::ConcurrencyScheduler(ConcurrencyScheduler {
            slots: slots::wired(&settings, &at, inputs)?,
            scheduler: scheduler.clone(),
        }))
    });
    circuit.add(part.wired(place, inputs, outputs));
    Ok(())
}
