//! The recent values of a flux meter.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::histogram::{FluxMeter, HistogramReading};
use crate::engine::clock::{Nanos, nanos};

/// About how many earlier readings a window keeps.
const MAX_READINGS: Nanos = 60;

/// The flows that ended well in the recent past, for one reader that reads repeatedly.
///
/// The window begins when it is created. Readings are kept a sixtieth of the window apart, so the
/// window is at most that much too long.
#[derive(Clone, Debug)]
pub(crate) struct MeterWindow {
    meter: Arc<FluxMeter>,
    length: Nanos,
    with_buckets: bool,
    pub(super) earlier: VecDeque<(Nanos, HistogramReading)>,
}

impl MeterWindow {
    /// Creates a window for [`mean`](Self::mean).
    pub(crate) fn of_mean(meter: &Arc<FluxMeter>, length: Duration, now: Nanos) -> Self {
        Self::new(meter, length, now, false)
    }

    /// Creates a window for [`mean`](Self::mean) and [`quantile`](Self::quantile).
    pub(crate) fn of_quantile(meter: &Arc<FluxMeter>, length: Duration, now: Nanos) -> Self {
        Self::new(meter, length, now, true)
    }

    fn new(meter: &Arc<FluxMeter>, length: Duration, now: Nanos, with_buckets: bool) -> Self {
        let first = (now, meter.ok.read(with_buckets));
        Self {
            meter: Arc::clone(meter),
            length: nanos(length),
            with_buckets,
            earlier: VecDeque::from([first]),
        }
    }

    /// Returns true if both windows read the same meter.
    pub(crate) fn is_of_same_meter(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.meter, &other.meter)
    }

    /// Returns the mean in milliseconds, or NaN if no flow ended well.
    pub(crate) fn mean(&mut self, now: Nanos) -> f64 {
        let (then, now) = self.read(now);
        let count = now.count.saturating_sub(then.count);
        if count == 0 {
            return f64::NAN;
        }
        now.sum.saturating_sub(then.sum) as f64 / 1000.0 / count as f64
    }

    /// Returns a quantile from 0 to 1, in milliseconds. Like Prometheus, assumes values evenly
    /// spread within a bucket. Returns NaN if no flow ended well.
    pub(crate) fn quantile(&mut self, quantile: f64, now: Nanos) -> f64 {
        let (then, now) = self.read(now);
        let counts: Vec<u64> = now
            .buckets
            .iter()
            .zip(&then.buckets)
            .map(|(now, then)| now.saturating_sub(*then))
            .collect();
        quantile_of(&self.meter.bounds, &counts, quantile)
    }

    /// Returns the counts at the beginning of the window, and the current ones.
    fn read(&mut self, now: Nanos) -> (HistogramReading, HistogramReading) {
        let begin = now.saturating_sub(self.length);
        // The window begins with the last reading that is old enough.
        while self.earlier.get(1).is_some_and(|(at, _)| *at <= begin) {
            self.earlier.pop_front();
        }
        let latest = self.meter.ok.read(self.with_buckets);
        let first = self.earlier.front();
        let then = first
            .map(|(_, reading)| reading.clone())
            .unwrap_or_default();
        let step = self.length / MAX_READINGS;
        let due = |(at, _): &(Nanos, HistogramReading)| now.saturating_sub(*at) >= step.max(1);
        if self.earlier.back().is_none_or(due) {
            self.earlier.push_back((now, latest.clone()));
        }
        (then, latest)
    }
}

pub(super) fn quantile_of(bounds: &[f64], counts: &[u64], quantile: f64) -> f64 {
    let total: u64 = counts.iter().sum();
    if total == 0 || quantile.is_nan() {
        return f64::NAN;
    }
    if quantile < 0.0 {
        return f64::NEG_INFINITY;
    }
    if quantile > 1.0 {
        return f64::INFINITY;
    }
    let rank = quantile * total as f64;
    let mut below = 0.0;
    for (at, count) in counts.iter().map(|count| *count as f64).enumerate() {
        if below + count < rank || count == 0.0 && at < bounds.len() {
            below += count;
            continue;
        }
        let Some(upper) = bounds.get(at) else {
            break;
        };
        let lower = match at {
            0 if *upper <= 0.0 => return *upper,
            0 => 0.0,
            at => bounds[at - 1],
        };
        return lower + (upper - lower) * (rank - below) / count;
    }
    // The last bucket has no upper bound, so return its lower one.
    bounds.last().copied().unwrap_or(f64::NAN)
}
