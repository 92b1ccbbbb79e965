//! What happens to flows, counted by control point: for the `metrics` facade where the feature is
//! on, nothing where it is off.

// Each backend uses a part of it.
#![cfg_attr(not(all(feature = "remote", feature = "embedded")), allow(dead_code))]

#[cfg(feature = "metrics")]
mod on;
#[cfg(feature = "metrics")]
mod series;
#[cfg(feature = "metrics")]
pub(crate) use self::on::{Asked, Held, Meter};

#[cfg(not(feature = "metrics"))]
mod off;
#[cfg(not(feature = "metrics"))]
pub(crate) use self::off::{Asked, Held, Meter};
