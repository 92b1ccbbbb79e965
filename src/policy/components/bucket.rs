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

/// What takes the tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takers {
    /// Requests that do not wait.
    Limited {
        /// A label says how many tokens a request takes; else it takes one.
        by_label: bool,
    },
    /// Requests that wait for their tokens.
    Queued,
}

/// With its signals, in the order of [`wires`].
pub(super) fn wired(
    settings: &Bucket,
    at: &At<'_>,
    inputs: &Inputs<'_, '_>,
    takers: Takers,
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
    } else if matches!(bucket.pass_through, Port::Constant(on) if on.is_nan() || on == 0.0) {
        for (port, note) in [
            (0, capacity_note(bucket.bucket_capacity, takers)),
            (1, fill_note(bucket.fill_amount)),
        ] {
            if let (Some(note), Some(port)) = (note, inputs.ports.get(port)) {
                port.at.warn(note);
            }
        }
    }
    Ok(bucket)
}

/// What follows from a capacity that makes no sense.
fn capacity_note(capacity: Port, takers: Takers) -> Option<&'static str> {
    let Port::Constant(capacity) = capacity else {
        return None;
    };
    let by_one = takers == Takers::Limited { by_label: false };
    if capacity == f64::INFINITY {
        Some("lets everything pass: a bucket without bounds holds the tokens of any request")
    } else if capacity == f64::NEG_INFINITY {
        Some("rejects everything: a bucket with an infinite debt never holds a token")
    } else if capacity <= 0.0 && takers == Takers::Queued {
        Some("makes every flow wait: the bucket holds no token that is not waited for")
    } else if capacity <= 0.0 {
        Some(
            "rejects everything: the bucket never holds a token; give it a capacity of one or more",
        )
    } else if capacity < 1.0 && by_one {
        Some("rejects everything: each request takes one token, and the bucket never holds as much")
    } else {
        None
    }
}

/// What follows from a fill that makes no sense.
fn fill_note(fill: Port) -> Option<&'static str> {
    let Port::Constant(fill) = fill else {
        return None;
    };
    if fill == f64::INFINITY {
        Some("lets everything pass that the bucket holds: it is full again at once")
    } else if fill == 0.0 {
        Some(
            "rejects everything once the first tokens are spent: none is filled in until the key \
             has idled for `max_idle_time`",
        )
    } else if fill < 0.0 {
        Some("rejects everything once the bucket is empty: it drains instead of being filled")
    } else {
        None
    }
}
