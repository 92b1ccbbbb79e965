//! The settings of an adaptive limiter in the units that it computes with.

use crate::engine::clock::{Nanos, nanos};
use crate::policy::{AdaptiveConcurrency, Algorithm};

/// The settings that all keys of a limiter share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tuning {
    pub(super) algorithm: Algorithm,
    pub(super) initial: f64,
    /// At least 1.
    pub(super) floor: f64,
    /// At least the floor.
    pub(super) ceiling: f64,
    /// More than 0, at most 1.
    pub(super) smoothing: f64,
    /// At least 1.
    pub(super) tolerance: f64,
    /// More than 0.
    pub(super) window: Nanos,
    /// At least the window.
    pub(super) long_window: Nanos,
    pub(super) until_end: bool,
}

impl Tuning {
    /// Converts settings that were checked.
    pub(super) fn new(settings: &AdaptiveConcurrency) -> Self {
        let window = nanos(settings.window).max(1);
        Self {
            algorithm: settings.algorithm,
            initial: f64::from(settings.initial),
            floor: f64::from(settings.min),
            ceiling: f64::from(settings.max),
            smoothing: settings.smoothing,
            tolerance: settings.tolerance,
            window,
            long_window: nanos(settings.long_window).max(window),
            until_end: settings.until_end,
        }
    }

    /// Returns a limit within the bounds. A number that is none becomes the floor.
    pub(super) fn bounded(&self, limit: f64) -> f64 {
        // Unlike `clamp`, this leaves no NaN.
        limit.max(self.floor).min(self.ceiling)
    }

    /// Returns the limit that lies between two limits by the smoothing.
    pub(super) fn smoothed(&self, from: f64, to: f64) -> f64 {
        self.bounded(from + (to - from) * self.smoothing)
    }
}
