//! `rate_limiter`: a token bucket for each value of a label.

use super::bucket::{self, Takers};
use super::{At, Circuit, Decides, Place, PolicyError, request_parameters};
use crate::policy::decode::Object;
use crate::policy::model::{ComponentKind, RateLimiter};
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
        "parameters",
        "request_parameters",
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
        "parameters",
        "request_parameters",
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
    let settings = bucket::settings(fields.required("parameters")?)?;
    let request = request_parameters(fields)?;
    let at = fields.at.clone();
    let part = Decides::new("rate limiter", place, selectors, move |inputs| {
        let takers = Takers::Limited {
            by_label: request.tokens_label_key.is_some(),
        };
        Ok(ComponentKind::RateLimiter(RateLimiter {
            bucket: bucket::wired(&settings, &at, inputs, takers)?,
            request: request.clone(),
        }))
    });
    circuit.add(part.wired(place, inputs, outputs));
    Ok(())
}
