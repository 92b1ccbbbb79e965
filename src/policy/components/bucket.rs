//! The token bucket of `rate_limiter` and `quota_scheduler`.

use std::time::Duration;

use super::{At, Inputs, PolicyError, named, positive};
use crate::policy::decode::Object;
use crate::policy::model::{Bucket, Port};
use crate::policy::ports::{self, InPort, Scope};

/// `in_ports`: capacity, filling, pass-through.
pub(super) fn wires<'t>(fields: &Object<'t>, scope: Scope) -> Result<Vec<InPort<'t>>, PolicyError> {
    let wires =
        fields
            .required("in_ports")?
            .object(&["bucket_capacity", "fill_amount", "pass_through"])?;
    Ok(vec![
        ports::required(&wires, "bucket_capacity", scope)?,
        ports::required(&wires, "fill_amount", scope)?,
        ports::given(&wires, "pass_through", scope)?,
    ])
}

/// The same in a blueprint's values, where they are plain numbers.
pub(super) fn numbers<'t>(fields: &Object<'t>) -> Result<Vec<InPort<'t>>, PolicyError> {
    Ok(vec![
        ports::number(fields, "bucket_capacity")?,
        ports::number(fields, "fill_amount")?,
        ports::unwired(&fields.at),
    ])
}

/// Everything but the signals.
pub(super) fn settings(at: At<'_>) -> Result<Bucket, PolicyError> {
    const UNSET: Port = Port::Constant(f64::NAN);
    let parameters = at.object(&[
        "interval",
        "limit_by_label_key",
        "label_key",
        "continuous_fill",
        "max_idle_time",
        "delay_initial_fill",
        "lazy_sync",
    ])?;
    let interval = super::more_than_zero(&parameters.required("interval")?)?;
    let max_idle_time = max_idle_time(&parameters)?;
    let old_key = parameters.scalar("label_key");
    if let Some(at) = &old_key {
        let message = "deprecated; its name is `limit_by_label_key` now";
        if at.context.strict {
            return Err(at.error(message));
        }
        at.warn(message);
    }
    let keys = [
        parameters.text("limit_by_label_key")?,
        old_key.map(|at| at.text()).transpose()?,
    ];
    let lazy_sync = match parameters.object("lazy_sync", &["enabled", "num_sync"])? {
        None => None,
        Some(fields) => {
            let num_sync = match fields.scalar("num_sync") {
                None => 4,
                Some(at) => match at.count()? {
                    0 => return Err(at.error("must be more than zero")),
                    count => count,
                },
            };
            fields.boolean("enabled", false)?.then_some(num_sync)
        }
    };
    Ok(Bucket {
        bucket_capacity: UNSET,
        fill_amount: UNSET,
        pass_through: UNSET,
        interval,
        continuous_fill: parameters.boolean("continuous_fill", true)?,
        delay_initial_fill: parameters.boolean("delay_initial_fill", false)?,
        max_idle_time,
        limit_by_label_key: keys.into_iter().flatten().find_map(named),
        lazy_sync,
    })
}

/// Two hours where there is none.
pub(super) fn max_idle_time(parameters: &Object<'_>) -> Result<Duration, PolicyError> {
    match parameters.scalar("max_idle_time") {
        Some(at) => Ok(positive(at.duration()?)),
        None => Ok(Duration::from_secs(7200)),
    }
}

/// With its signals, in the order of [`wires`].
pub(super) fn wired(
    settings: &Bucket,
    at: &At<'_>,
    inputs: &Inputs<'_, '_>,
) -> Result<Bucket, PolicyError> {
    let bucket = Bucket {
        bucket_capacity: inputs.port(0)?,
        fill_amount: inputs.port(1)?,
        pass_through: inputs.port(2)?,
        ..settings.clone()
    };
    let invalid = |port| matches!(port, Port::Constant(value) if f64::is_nan(value));
    let zero = Port::Constant(0.0);
    if bucket.bucket_capacity == zero && bucket.fill_amount == zero {
        at.warn(
            "lets everything pass: the Agent never acts on a capacity and a fill of zero; give \
             one of them another value",
        );
    } else if invalid(bucket.bucket_capacity) || invalid(bucket.fill_amount) {
        at.warn("lets everything pass: its capacity or its fill is invalid");
    }
    Ok(bucket)
}
