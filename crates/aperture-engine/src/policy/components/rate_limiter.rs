//! Reads `rate_limiter`: a token bucket for each value of a label.

use super::bucket::{self, TokenConsumer};
use super::{
    CircuitBuilder, ComponentLocation, DecidingComponent, DocumentNode, PolicyError,
    request_parameters,
};
use crate::policy::decode::Object;
use crate::policy::model::{ComponentKind, RateLimiter};
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
        "parameters",
        "request_parameters",
    ])?;
    let inputs = bucket::in_ports(&fields, location.scope)?;
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
        "bucket_capacity",
        "fill_amount",
        "selectors",
        "parameters",
        "request_parameters",
        "alerter",
    ])?;
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
        }))
    });
    circuit.add(component.with_ports(location, inputs, outputs));
    Ok(())
}
