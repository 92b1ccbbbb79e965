//! `rate_limiter`: a token bucket for each value of a label.

use std::sync::Arc;
use std::time::Duration;

use super::{At, Carried, Circuit, Deciding, Inputs, Part, Place, PolicyError, Wired};
use crate::policy::decode::Object;
use crate::policy::model::{Bucket, ComponentKind, Port, RateLimiter, RequestParameters, Selector};
use crate::policy::ports::{self, InPort, OutPort};
use crate::policy::{selector, status_code};

struct Limiter<'t> {
    at: At<'t>,
    selectors: Vec<Selector>,
    /// Everything but the signals.
    settings: RateLimiter,
    origin: String,
}

impl Part for Limiter<'_> {
    fn carry(&self, _inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        vec![Carried::Changing(self.origin.as_str().into())]
    }

    fn decide(&self, inputs: &Inputs<'_, '_>) -> Result<Option<Deciding>, PolicyError> {
        let (capacity, fill) = (inputs.steady(0)?, inputs.steady(1)?);
        let mut limiter = self.settings.clone();
        limiter.bucket.bucket_capacity = Port::Constant(capacity);
        limiter.bucket.fill_amount = Port::Constant(fill);
        limiter.bucket.pass_through = Port::Constant(inputs.steady(2)?);
        if capacity == 0.0 && fill == 0.0 {
            self.at.warn(
                "lets everything pass: the Agent never acts on a capacity and a fill of zero; \
                 give one of them another value",
            );
        } else if capacity.is_nan() || fill.is_nan() {
            self.at
                .warn("lets everything pass: its capacity or its fill is invalid");
        }
        let kind = ComponentKind::RateLimiter(limiter);
        Ok(Some((self.selectors.clone(), kind)))
    }
}

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
    let wires =
        fields
            .required("in_ports")?
            .object(&["bucket_capacity", "fill_amount", "pass_through"])?;
    let inputs = [
        ports::required(&wires, "bucket_capacity", place.scope)?,
        ports::required(&wires, "fill_amount", place.scope)?,
        match wires.get("pass_through") {
            Some(at) => ports::in_port(at, place.scope)?,
            None => ports::unwired(&wires.at),
        },
    ];
    let output = ports::out_port(&fields, &["accept_percentage"], place.scope)?;
    circuit.add(limiter(&fields, place, inputs, output)?);
    Ok(())
}

/// The section of a blueprint's values, where the signals are plain numbers.
pub(in crate::policy) fn blueprint_rate_limiter<'t>(
    at: At<'t>,
    place: &Place,
    output: OutPort<'t>,
) -> Result<Wired<'t>, PolicyError> {
    let fields = at.object(&[
        "bucket_capacity",
        "fill_amount",
        "selectors",
        "parameters",
        "request_parameters",
        "alerter",
    ])?;
    let signal = |key| -> Result<InPort<'t>, PolicyError> {
        let at = fields.required(key)?;
        Ok(ports::constant(&at, at.number()?))
    };
    let inputs = [
        signal("bucket_capacity")?,
        signal("fill_amount")?,
        ports::unwired(&fields.at),
    ];
    if let Some(at) = fields.get("alerter") {
        at.warn("has no effect: the embedded engine sends no alerts");
        super::alerter::check_parameters(at)?;
    }
    limiter(&fields, place, inputs, output)
}

fn limiter<'t>(
    fields: &Object<'t>,
    place: &Place,
    inputs: [InPort<'t>; 3],
    output: OutPort<'t>,
) -> Result<Wired<'t>, PolicyError> {
    let selectors = selector::selectors(fields, "selectors")?;
    let settings = settings(fields)?;
    Ok(Wired {
        id: place.id.clone(),
        inputs: inputs.into(),
        outputs: vec![output],
        part: Box::new(Limiter {
            at: fields.at.clone(),
            selectors,
            settings,
            origin: format!("`accept_percentage` of the rate limiter `{}`", place.id),
        }),
    })
}

fn settings(fields: &Object<'_>) -> Result<RateLimiter, PolicyError> {
    let parameters = fields.required("parameters")?.object(&[
        "interval",
        "limit_by_label_key",
        "label_key",
        "continuous_fill",
        "max_idle_time",
        "delay_initial_fill",
        "lazy_sync",
    ])?;
    let at = parameters.required("interval")?;
    let interval = duration(at.duration()?);
    if interval.is_zero() {
        return Err(at.error("must be more than zero"));
    }
    let max_idle_time = match parameters.scalar("max_idle_time") {
        Some(at) => duration(at.duration()?),
        None => Duration::from_secs(7200),
    };
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
    const UNSET: Port = Port::Constant(f64::NAN);
    Ok(RateLimiter {
        bucket: Bucket {
            bucket_capacity: UNSET,
            fill_amount: UNSET,
            pass_through: UNSET,
            interval,
            continuous_fill: parameters.boolean("continuous_fill", true)?,
            delay_initial_fill: parameters.boolean("delay_initial_fill", false)?,
            max_idle_time,
            limit_by_label_key: keys.into_iter().flatten().find_map(named),
            lazy_sync,
        },
        request: request_parameters(fields)?,
    })
}

fn request_parameters(fields: &Object<'_>) -> Result<RequestParameters, PolicyError> {
    let request = fields.object(
        "request_parameters",
        &["tokens_label_key", "denied_response_status_code"],
    )?;
    let mut parameters = RequestParameters::default();
    if let Some(fields) = request {
        parameters.tokens_label_key = fields.text("tokens_label_key")?.and_then(named);
        if let Some(at) = fields.scalar("denied_response_status_code") {
            parameters.denied_response_status_code = status_code::decode(&at)?;
        }
    }
    Ok(parameters)
}

/// An empty name is none.
fn named(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| Arc::from(text))
}

/// Zero for what is negative.
fn duration(nanos: i128) -> Duration {
    const NANOS: u128 = 1_000_000_000;
    let nanos = u128::try_from(nanos).unwrap_or(0);
    // Twelve digits of seconds at most, so neither part overflows.
    Duration::new((nanos / NANOS) as u64, (nanos % NANOS) as u32)
}
