//! Reads `quota_scheduler`: a token bucket for which flows queue.

use super::alerter::ALERTER;
use super::bucket::{self, TokenConsumer};
use super::{
    ACCEPT_PERCENTAGE, CircuitBuilder, ComponentLocation, DecidingComponent, DocumentNode,
    LIMITER_OUT_PORTS, PolicyError, scheduler,
};
use crate::policy::decode::{Field, FieldValue, Object, Section};
use crate::policy::model::{ComponentKind, QuotaScheduler};
use crate::policy::ports::{self, InPort, OutPort};
use crate::policy::selector;

/// The fields of a quota scheduler.
pub(super) static FIELDS: Section = Section::new(
    "Quota scheduler",
    &[&[
        bucket::IN_PORTS,
        LIMITER_OUT_PORTS,
        selector::SELECTORS,
        PARAMETERS,
        scheduler::SCHEDULER,
    ]],
);

/// The fields of the section of a values file.
pub(in crate::policy) static VALUES: Section = Section::new(
    "Quota scheduler of a blueprint",
    &[
        bucket::CONSTANTS,
        &[
            selector::SELECTORS,
            PARAMETERS,
            scheduler::SCHEDULER,
            ALERTER,
        ],
    ],
);

const PARAMETERS: Field = Field::required(
    "rate_limiter",
    FieldValue::Section(&bucket::PARAMETERS),
    "How buckets are filled, and by which label.",
);

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&FIELDS)?;
    let inputs = bucket::in_ports(&fields, location.scope)?;
    let outputs = ports::out_ports(&fields, &ACCEPT_PERCENTAGE, location.scope)?;
    add(&fields, location, inputs, outputs, circuit)
}

/// Reads the section of a values file, where the signals are plain numbers.
pub(in crate::policy) fn read_values<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    output: OutPort<'t>,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&VALUES)?;
    let inputs = bucket::constant_in_ports(&fields)?;
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
    let settings = bucket::settings(fields.required("rate_limiter")?)?;
    let scheduler = scheduler::read(fields, scheduler::QueueResource::TokensOrSlots)?;
    let node = fields.node.clone();
    let component = DecidingComponent::new("quota scheduler", location, selectors, move |inputs| {
        Ok(ComponentKind::QuotaScheduler(QuotaScheduler {
            bucket: bucket::with_signals(&settings, &node, inputs, TokenConsumer::QuotaScheduler)?,
            scheduler: scheduler.clone(),
        }))
    });
    circuit.add(component.with_ports(location, inputs, outputs));
    Ok(())
}
