//! The metrics of the remote client; without the feature `metrics`, they have types without values.

#[cfg(feature = "metrics")]
mod recorder;
#[cfg(not(feature = "metrics"))]
#[path = "no_op.rs"]
mod recorder;

pub(super) use self::recorder::{MetricCounter, MetricGauge, register};
