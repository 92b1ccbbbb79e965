//! Reads `concurrency_scheduler`: slots for which flows queue.

use super::{
    CircuitBuilder, ComponentLocation, DecidingComponent, DocumentNode, PolicyError, scheduler,
    slots,
};
use crate::policy::decode::Object;
use crate::policy::model::{ComponentKind, ConcurrencyScheduler};
use crate::policy::ports::{self, InPort, OutPort};
use crate::policy::selector;

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&[
        "in_ports",
        "out_ports",
        "selectors",
        "concurrency_limiter",
        "scheduler",
    ])?;
    let inputs = slots::in_ports(&fields, location.scope)?;
    let outputs = ports::out_ports(&fields, &["accept_percentage"], location.scope)?;
    add(&fields, location, inputs, outputs, circuit)
}

/// Reads the section of a values file, where the signals are plain numbers.
pub(in crate::policy) fn read_values<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    output: OutPort<'t>,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&[
        "max_concurrency",
        "selectors",
        "concurrency_limiter",
        "scheduler",
        "alerter",
    ])?;
    let inputs = slots::constant_in_ports(&fields)?;
    add(&fields, location, inputs, vec![output], circuit)
}

fn add<'t>(
    fields: &Object<'t>,
    location: &ComponentLocation,
    inputs: Vec<InPort<'t>>,
    outputs: Vec<OutPort<'t>>,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let selectors = selector::selectors(fields, "selectors")?;
    let settings = slots::settings(fields.required("concurrency_limiter")?)?;
    let scheduler = scheduler::read(fields, scheduler::QueueResource::TokensOrSlots)?;
    let node = fields.node.clone();
    let component = DecidingComponent::new(
        "concurrency scheduler",
        location,
        selectors,
        move |inputs| {
            Ok(ComponentKind::ConcurrencyScheduler(ConcurrencyScheduler {
                slots: slots::with_signals(&settings, &node, inputs)?,
                scheduler: scheduler.clone(),
            }))
        },
    );
    circuit.add(component.with_ports(location, inputs, outputs));
    Ok(())
}
