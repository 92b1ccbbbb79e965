//! Records the metrics of flows by control point, through the `metrics` facade. Without the feature
//! `metrics`, the same types are no-op stubs.

// Each backend uses only some of the methods.
#![cfg_attr(not(all(feature = "remote", feature = "embedded")), allow(dead_code))]

#[cfg(feature = "metrics")]
mod control_point;
#[cfg(feature = "metrics")]
mod enabled;
#[cfg(feature = "metrics")]
pub(crate) use self::enabled::{CheckTimer, EndCounter, Meter};

#[cfg(not(feature = "metrics"))]
mod disabled;
#[cfg(not(feature = "metrics"))]
pub(crate) use self::disabled::{CheckTimer, EndCounter, Meter};
