//! The limit of one key, as a pure function of what was learned before and of the next sample.

use super::tuning::Tuning;
use super::{gradient, vegas};
use crate::policy::Algorithm;

/// The measurements of the flows of one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// The mean latency in nanoseconds, at least 1; `None` if no flow had one.
    pub(super) latency: Option<f64>,
    /// The most tokens that were in flight when a flow was measured.
    pub(super) in_flight: f64,
    /// True if too many flows failed by overload.
    pub(super) overloaded: bool,
    /// The length of the window in nanoseconds.
    pub(super) span: f64,
}

/// The limit of a key and the latencies that it was computed from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Learned {
    /// The limit, within the bounds. Measuring the baseline anew does not change it.
    pub(super) limit: f64,
    /// The usual latency in nanoseconds, or 0 before the first sample: the long-term mean for the
    /// gradient, and the least latency for Vegas.
    pub(super) baseline: f64,
    /// The number of windows that the baseline is the mean of, while that is still the mean of all.
    pub(super) windows: u32,
    /// The nanoseconds in windows since the baseline was last measured anew.
    pub(super) since_measured: f64,
    pub(super) remeasuring: Remeasuring,
}

/// The stage of a new measurement of the least latency. Vegas lowers the limit during the
/// measurement, so that the service has no queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remeasuring {
    No,
    /// Flows from before are still in flight.
    Draining,
    Measuring,
}

impl Learned {
    /// Returns the state of a key that has learned nothing yet.
    pub(super) fn new(tuning: &Tuning) -> Self {
        Self {
            limit: tuning.bounded(tuning.initial),
            baseline: 0.0,
            windows: 0,
            since_measured: vegas::head_start(tuning),
            remeasuring: Remeasuring::No,
        }
    }

    /// Returns the limit in force: a whole number within the bounds.
    pub(super) fn in_force(&self, tuning: &Tuning) -> f64 {
        let limit = match self.remeasuring {
            Remeasuring::No => self.limit,
            Remeasuring::Draining | Remeasuring::Measuring => self.limit / 2.0,
        };
        tuning.bounded(limit.floor())
    }

    /// Returns the latency in nanoseconds from which on a flow is slow; infinity while nothing is
    /// known.
    pub(super) fn slow_from(&self, tuning: &Tuning) -> f64 {
        match self.baseline > 0.0 {
            true => self.baseline * tuning.tolerance,
            false => f64::INFINITY,
        }
    }

    /// Returns what is learned from one more sample.
    #[must_use]
    pub(super) fn next(&self, sample: &Sample, tuning: &Tuning) -> Self {
        let known = Self {
            // The bounds may have changed.
            limit: tuning.bounded(self.limit),
            ..*self
        };
        match tuning.algorithm {
            Algorithm::Gradient => gradient::next(known, sample, tuning),
            Algorithm::Vegas => vegas::next(known, sample, tuning),
        }
    }

    /// Returns true if too little of the limit was used to tell whether a higher one would do.
    pub(super) fn is_unused(&self, sample: &Sample) -> bool {
        sample.in_flight < self.limit / 2.0
    }
}
