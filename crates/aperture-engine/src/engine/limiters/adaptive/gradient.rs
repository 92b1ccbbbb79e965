//! The gradient algorithm, after Gradient2 of Netflix's concurrency-limits: the limit follows the
//! ratio of the long-term latency to that of the last window.
//!
//! Differences: the room for a queue is the square root of the limit, as in the first version of
//! the algorithm, so that small limits stay possible. A window with too many failures lowers the
//! limit by a tenth; Gradient2 ignores failures.

use super::learned::{Learned, Remeasuring, Sample};
use super::tuning::Tuning;

/// The number of windows whose plain mean is the first long-term latency.
const WARMUP_WINDOWS: u32 = 10;
/// One window lowers the limit at most to this share, before smoothing, because outliers exist.
const LEAST_GRADIENT: f64 = 0.5;
/// If the long-term latency is more than this multiple of the latest, an overload is over, and the
/// long-term latency decays by [`DECAY`] a window.
const RECOVERED: f64 = 2.0;
const DECAY: f64 = 0.95;
/// The share of the limit that a window with too many failures takes away.
const AFTER_FAILURES: f64 = 0.1;

pub(super) fn next(known: Learned, sample: &Sample, tuning: &Tuning) -> Learned {
    let mut next = Learned {
        remeasuring: Remeasuring::No,
        ..known
    };
    if let Some(latency) = sample.latency {
        next.baseline = long_term(&known, latency, sample.span, tuning);
        next.windows = known.windows.saturating_add(1);
    }
    if sample.overloaded {
        next.limit = tuning.bounded(known.limit * (1.0 - AFTER_FAILURES));
        return next;
    }
    let Some(latency) = sample.latency else {
        return next;
    };
    if known.is_unused(sample) {
        return next;
    }
    let gradient = (tuning.tolerance * next.baseline / latency).clamp(LEAST_GRADIENT, 1.0);
    let target = known.limit * gradient + known.limit.sqrt();
    next.limit = tuning.smoothed(known.limit, target);
    next
}

/// Returns the long-term latency: an exponential mean over the long window.
fn long_term(known: &Learned, latency: f64, span: f64, tuning: &Tuning) -> f64 {
    let windows = tuning.long_window as f64 / span;
    let weight = match known.windows {
        windows if windows < WARMUP_WINDOWS => 1.0 / f64::from(windows + 1),
        _ => (2.0 / (windows + 1.0)).min(1.0),
    };
    let mean = known.baseline + (latency - known.baseline) * weight;
    match mean / latency > RECOVERED {
        true => mean * DECAY,
        false => mean,
    }
}
