//! The metrics of the remote client; without the feature `metrics`, they have types without values.

#[cfg(not(feature = "metrics"))]
mod no_op;
#[cfg(feature = "metrics")]
mod recorder;

#[cfg(not(feature = "metrics"))]
pub(super) use self::no_op::{MetricCounter, MetricGauge, register};
#[cfg(feature = "metrics")]
pub(super) use self::recorder::{MetricCounter, MetricGauge, register};
