//! The slots of `concurrency_limiter` and `concurrency_scheduler`.

use super::{At, Inputs, PolicyError, bucket, named};
use crate::policy::decode::Object;
use crate::policy::model::{Port, Slots};
use crate::policy::ports::{self, InPort, Scope};

/// `in_ports`: concurrency, pass-through.
pub(super) fn wires<'t>(fields: &Object<'t>, scope: Scope) -> Result<Vec<InPort<'t>>, PolicyError> {
    let wires = fields
        .required("in_ports")?
        .object(&["max_concurrency", "pass_through"])?;
    Ok(vec![
        ports::required(&wires, "max_concurrency", scope)?,
        ports::given(&wires, "pass_through", scope)?,
    ])
}

/// The same in a blueprint's values, where it is a plain number.
pub(super) fn numbers<'t>(fields: &Object<'t>) -> Result<Vec<InPort<'t>>, PolicyError> {
    Ok(vec![
        ports::number(fields, "max_concurrency")?,
        ports::unwired(&fields.at),
    ])
}

/// Everything but the signals.
pub(super) fn settings(at: At<'_>) -> Result<Slots, PolicyError> {
    const UNSET: Port = Port::Constant(f64::NAN);
    let parameters = at.object(&[
        "max_inflight_duration",
        "limit_by_label_key",
        "max_idle_time",
    ])?;
    Ok(Slots {
        max_concurrency: UNSET,
        pass_through: UNSET,
        max_inflight_duration: super::more_than_zero(
            &parameters.required("max_inflight_duration")?,
        )?,
        limit_by_label_key: parameters.text("limit_by_label_key")?.and_then(named),
        max_idle_time: bucket::max_idle_time(&parameters)?,
    })
}

/// With its signals, in the order of [`wires`].
pub(super) fn wired(
    settings: &Slots,
    at: &At<'_>,
    inputs: &Inputs<'_, '_>,
) -> Result<Slots, PolicyError> {
    let slots = Slots {
        max_concurrency: inputs.port(0)?,
        pass_through: inputs.port(1)?,
        ..settings.clone()
    };
    match slots.max_concurrency {
        Port::Constant(value) if value.is_nan() => {
            at.warn("lets everything pass: its concurrency is invalid");
        }
        Port::Constant(value) if value <= 0.0 => {
            at.warn("rejects everything: its concurrency is not more than zero");
        }
        Port::Constant(f64::INFINITY) => {
            at.warn("lets everything pass: its concurrency has no bound");
        }
        _ => {}
    }
    Ok(slots)
}
