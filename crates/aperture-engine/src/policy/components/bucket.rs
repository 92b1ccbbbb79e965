//! Reads the token bucket of `rate_limiter` and `quota_scheduler`.

use std::time::Duration;

use super::keyed::KeyState;
use super::{DocumentNode, InputSignals, PolicyError, non_empty, non_negative};
use crate::policy::decode::{Bounds, Field, FieldValue, Object, Section};
use crate::policy::model::{Bucket, Port};
use crate::policy::ports::{self, InPort, ScopeIndex};

/// The `in_ports` of a bucket.
pub(super) const IN_PORTS: Field = Field::required(
    "in_ports",
    FieldValue::Section(&IN_PORTS_SECTION),
    "The signals of the bucket.",
);

static IN_PORTS_SECTION: Section = Section::new(
    "",
    &[&[
        ports::required_port("bucket_capacity", CAPACITY),
        ports::required_port("fill_amount", FILL),
        ports::port(
            "pass_through",
            "Lets every flow pass while the signal is valid and not zero.",
        ),
    ]],
);

const CAPACITY: &str = "The tokens that a bucket holds at most.";
const FILL: &str = "The tokens that are added to a bucket in each interval.";

/// The same as plain numbers, for the values of a blueprint.
pub(super) const CONSTANTS: &[Field] = &[
    Field::required(
        "bucket_capacity",
        FieldValue::Number(Bounds::None),
        CAPACITY,
    ),
    Field::required("fill_amount", FieldValue::Number(Bounds::None), FILL),
];

/// The parameters of a bucket.
pub(super) static PARAMETERS: Section = Section::new(
    "Bucket",
    &[&[
        Field::required(
            "interval",
            FieldValue::PositiveDuration,
            "The time in which `fill_amount` tokens are added.",
        ),
        Field::optional(
            "limit_by_label_key",
            FieldValue::Text,
            "The label whose values have a bucket each; flows without the label pass. Without it, \
             one bucket serves all flows.",
        ),
        Field::optional(
            "label_key",
            FieldValue::Text,
            "The old name of `limit_by_label_key`. Values files refuse it.",
        ),
        Field::with_default(
            "continuous_fill",
            FieldValue::Boolean,
            "true",
            "Whether tokens are added all the time, instead of all at the end of an interval.",
        ),
        MAX_IDLE_TIME,
        Field::with_default(
            "delay_initial_fill",
            FieldValue::Boolean,
            "false",
            "Whether filling pauses, after a flow took tokens from a full bucket, for the time in \
             which the bucket would be filled.",
        ),
        Field::optional(
            "lazy_sync",
            FieldValue::Section(&LAZY_SYNC),
            "How the Agents of a cluster share buckets. The engine decides as one Agent of them.",
        ),
    ]],
);

/// When the state of an unused key is removed.
pub(super) const MAX_IDLE_TIME: Field = Field::with_default(
    "max_idle_time",
    FieldValue::Duration,
    "7200s",
    "The time after which the state of an unused key is removed.",
);

static LAZY_SYNC: Section = Section::new(
    "",
    &[&[
        Field::with_default(
            "enabled",
            FieldValue::Boolean,
            "false",
            "Whether Agents count for themselves and synchronise now and then.",
        ),
        Field::with_default(
            "num_sync",
            FieldValue::Count(Bounds::MoreThan(0.0)),
            "4",
            "The number of synchronisations in an interval.",
        ),
    ]],
);

/// The ports are capacity, fill and pass-through.
impl KeyState for Bucket {
    fn in_ports<'t>(
        fields: &Object<'t>,
        scope: ScopeIndex,
    ) -> Result<Vec<InPort<'t>>, PolicyError> {
        let in_ports = fields.required("in_ports")?.object(&IN_PORTS_SECTION)?;
        Ok(vec![
            ports::required_in_port(&in_ports, "bucket_capacity", scope)?,
            ports::required_in_port(&in_ports, "fill_amount", scope)?,
            ports::optional_in_port(&in_ports, "pass_through", scope)?,
        ])
    }

    fn constant_in_ports<'t>(fields: &Object<'t>) -> Result<Vec<InPort<'t>>, PolicyError> {
        Ok(vec![
            ports::number_in_port(fields, "bucket_capacity")?,
            ports::number_in_port(fields, "fill_amount")?,
            ports::unwired(&fields.node),
        ])
    }

    fn parameters(node: DocumentNode<'_>) -> Result<Self, PolicyError> {
        const UNSET: Port = Port::Constant(f64::NAN);
        let parameters = node.object(&PARAMETERS)?;
        let interval = super::positive_duration(&parameters.required("interval")?)?;
        let max_idle_time = max_idle_time(&parameters)?;
        let old_key = parameters.scalar("label_key");
        if let Some(node) = &old_key {
            let message = "deprecated; use `limit_by_label_key` instead";
            if node.context.strict {
                return Err(node.error(message));
            }
            node.warn(message);
        }
        let keys = [
            parameters.text("limit_by_label_key")?,
            old_key.map(|node| node.text()).transpose()?,
        ];
        let lazy_sync = match parameters.object("lazy_sync", &LAZY_SYNC)? {
            None => None,
            Some(fields) => {
                let num_sync = match fields.scalar("num_sync") {
                    None => 4,
                    Some(node) => match node.count()? {
                        0 => return Err(node.error("must be more than zero")),
                        count => count,
                    },
                };
                fields.boolean("enabled", false)?.then_some(num_sync)
            }
        };
        Ok(Self {
            bucket_capacity: UNSET,
            fill_amount: UNSET,
            pass_through: UNSET,
            interval,
            continuous_fill: parameters.boolean("continuous_fill", true)?,
            delay_initial_fill: parameters.boolean("delay_initial_fill", false)?,
            max_idle_time,
            limit_by_label_key: keys.into_iter().flatten().find_map(non_empty),
            lazy_sync,
        })
    }
}

/// Reads `max_idle_time`; two hours if it is absent.
pub(super) fn max_idle_time(parameters: &Object<'_>) -> Result<Duration, PolicyError> {
    match parameters.scalar("max_idle_time") {
        Some(node) => Ok(non_negative(node.duration()?)),
        None => Ok(Duration::from_secs(7200)),
    }
}

/// The component that takes the tokens of a bucket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenConsumer {
    /// A rate limiter: flows do not wait.
    RateLimiter {
        /// The number of tokens comes from a label; otherwise a flow takes one.
        tokens_from_label: bool,
    },
    /// A quota scheduler: flows wait for their tokens.
    QuotaScheduler,
}

/// Returns the bucket with its signals, in the order of its ports. Warns about signals that
/// reject every flow or let every flow pass.
pub(super) fn with_signals(
    settings: &Bucket,
    node: &DocumentNode<'_>,
    inputs: &InputSignals<'_, '_>,
    consumer: TokenConsumer,
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
        node.warn(
            "lets everything pass: the Agent never acts on a capacity and a fill of zero; give \
             one of them another value",
        );
    } else if invalid(bucket.bucket_capacity) || invalid(bucket.fill_amount) {
        node.warn("lets everything pass: its capacity or its fill is invalid");
    } else if matches!(bucket.pass_through, Port::Constant(on) if on.is_nan() || on == 0.0) {
        for (port, warning) in [
            (0, capacity_warning(bucket.bucket_capacity, consumer)),
            (1, fill_warning(bucket.fill_amount)),
        ] {
            if let (Some(warning), Some(port)) = (warning, inputs.ports.get(port)) {
                port.node.warn(warning);
            }
        }
    }
    Ok(bucket)
}

/// Returns a warning about a capacity that rejects every flow or lets every flow pass.
fn capacity_warning(capacity: Port, consumer: TokenConsumer) -> Option<&'static str> {
    let Port::Constant(capacity) = capacity else {
        return None;
    };
    let takes_one_token = consumer
        == TokenConsumer::RateLimiter {
            tokens_from_label: false,
        };
    if capacity == f64::INFINITY {
        Some("lets everything pass: a bucket without bounds holds the tokens of any request")
    } else if capacity == f64::NEG_INFINITY {
        Some("rejects everything: a bucket with an infinite debt never holds a token")
    } else if capacity <= 0.0 && consumer == TokenConsumer::QuotaScheduler {
        Some("makes every flow wait: the bucket never holds a token in advance")
    } else if capacity <= 0.0 {
        Some(
            "rejects everything: the bucket never holds a token; give it a capacity of one or more",
        )
    } else if capacity < 1.0 && takes_one_token {
        Some(
            "rejects everything: each flow takes one token, and the bucket never holds a whole one",
        )
    } else {
        None
    }
}

/// Returns a warning about a fill that rejects every flow or lets every flow pass.
fn fill_warning(fill: Port) -> Option<&'static str> {
    let Port::Constant(fill) = fill else {
        return None;
    };
    if fill == f64::INFINITY {
        Some(
            "lets everything pass that needs no more than the capacity: the bucket is refilled at once",
        )
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
