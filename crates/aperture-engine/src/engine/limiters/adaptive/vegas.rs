//! The Vegas algorithm, after TCP Vegas and Netflix's concurrency-limits: the limit keeps a few
//! flows in the queue of the service.
//!
//! The length of the queue is estimated from the latency and the least latency so far. Differences:
//! while the least latency is measured anew, the limit is halved for a moment, because a queue that
//! is always there would count as none; a queue far beyond its bound is shortened by half of the
//! excess, and too many failures lower the limit by a tenth, instead of by one step.

use super::learned::{Learned, Remeasuring, Sample};
use super::tuning::Tuning;

/// The queue, in steps, up to which the limit grows by one step, and from which on it falls.
const GROWS_BELOW: f64 = 3.0;
const FALLS_ABOVE: f64 = 6.0;
/// The share of the limit that a window with too many failures takes away.
const AFTER_FAILURES: f64 = 0.1;
/// The share of the long window after which a key measures its least latency anew for the first
/// time, because it may have begun in an overload.
const FIRST_MEASUREMENT: f64 = 0.1;
/// If measuring anew finds less than this share of the least latency, the queue may be shorter but
/// not empty. The next time comes as soon as the first one.
const DRAINED: f64 = 0.9;

/// Returns the nanoseconds since the last measurement with which a new key begins.
pub(super) fn head_start(tuning: &Tuning) -> f64 {
    tuning.long_window as f64 * (1.0 - FIRST_MEASUREMENT)
}

pub(super) fn next(known: Learned, sample: &Sample, tuning: &Tuning) -> Learned {
    let mut next = Learned {
        since_measured: known.since_measured + sample.span,
        ..known
    };
    match known.remeasuring {
        Remeasuring::No => {}
        Remeasuring::Draining => {
            next.remeasuring = Remeasuring::Measuring;
            return next;
        }
        Remeasuring::Measuring => {
            if let Some(latency) = sample.latency {
                let drains = latency < known.baseline * DRAINED;
                next.baseline = latency;
                next.since_measured = if drains { head_start(tuning) } else { 0.0 };
                next.remeasuring = Remeasuring::No;
            }
            return next;
        }
    }
    if let Some(latency) = sample.latency {
        next.baseline = match known.baseline > 0.0 {
            true => known.baseline.min(latency),
            false => latency,
        };
        next.windows = known.windows.saturating_add(1);
    }
    if next.since_measured >= tuning.long_window as f64 {
        next.remeasuring = Remeasuring::Draining;
    }
    let step = known.limit.log10().max(1.0);
    let queue = sample
        .latency
        .map_or(0.0, |latency| known.limit * (1.0 - next.baseline / latency));
    let excess = queue - FALLS_ABOVE * step;
    let change = if sample.overloaded {
        -step.max(known.limit * AFTER_FAILURES).max(excess / 2.0)
    } else if sample.latency.is_none() || known.is_unused(sample) {
        0.0
    } else if queue <= step {
        FALLS_ABOVE * step
    } else if queue < GROWS_BELOW * step {
        step
    } else if excess > 0.0 {
        -step.max(excess / 2.0)
    } else {
        0.0
    };
    next.limit = tuning.smoothed(known.limit, known.limit + change);
    next
}
