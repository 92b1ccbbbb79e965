//! Reads `rate_limiter`: a token bucket for each value of a label.

use super::alerter::ALERTER;
use super::bucket::{self, TokenConsumer};
use super::{
    ACCEPT_PERCENTAGE, CircuitBuilder, ComponentLocation, DecidingComponent, DocumentNode,
    LIMITER_OUT_PORTS, PolicyError, REQUEST_PARAMETERS, request_parameters,
};
use crate::policy::decode::{Field, FieldValue, Object, Section};
use crate::policy::model::{ComponentKind, RateLimiter};
use crate::policy::ports::{self, InPort, OutPort};
use crate::policy::selector;

/// The fields of a rate limiter.
pub(super) static FIELDS: Section = Section::new(
    "Rate limiter",
    &[&[
        bucket::IN_PORTS,
        LIMITER_OUT_PORTS,
        selector::SELECTORS,
        PARAMETERS,
        REQUEST_PARAMETERS,
    ]],
);

/// The fields of the section of a values file.
pub(in crate::policy) static VALUES: Section = Section::new(
    "Rate limiter of a blueprint",
    &[
        bucket::CONSTANTS,
        &[selector::SELECTORS, PARAMETERS, REQUEST_PARAMETERS, ALERTER],
    ],
);

const PARAMETERS: Field = Field::required(
    "parameters",
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
    let settings = bucket::settings(fields.required("parameters")?)?;
    let request = request_parameters(fields)?;
    let node = fields.node.clone();
    let component = DecidingComponent::new("rate limiter", location, selectors, move |inputs| {
        let consumer = TokenConsumer::RateLimiter {
            tokens_from_label: request.tokens_label_key.is_some(),
        };
        Ok(ComponentKind::RateLimiter(RateLimiter {
            bucket: bucket::with_signals(&settings, &node, inputs, consumer)?,
            request: request.clone(),
            count_only: None,
        }))
    });
    circuit.add(component.with_ports(location, inputs, outputs));
    Ok(())
}
