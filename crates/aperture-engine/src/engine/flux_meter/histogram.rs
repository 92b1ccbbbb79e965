//! The histogram of one flux meter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::engine::clock::Nanos;
use crate::policy::{self, Buckets};

/// The documented default bounds, in milliseconds.
pub(super) const DEFAULT_BOUNDS: [f64; 11] = [
    5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0,
];
const MAX_BUCKETS: usize = 1000;
/// The attribute that an engine measures itself. All others come from spans.
pub(super) const WORKLOAD_DURATION: &str = "workload_duration_ms";

/// A flux meter: a histogram in milliseconds.
#[derive(Debug)]
pub struct FluxMeter {
    pub(super) name: Arc<str>,
    pub(super) policy_name: Arc<str>,
    pub(super) attribute_key: Arc<str>,
    /// The upper bounds of the buckets, ascending. One more bucket has no upper bound.
    pub(super) bounds: Box<[f64]>,
    /// Whether the engine measures the attribute itself.
    pub(super) measured_here: bool,
    pub(super) ok: HistogramSeries,
    /// Errors, and rejected flows.
    pub(super) other: HistogramSeries,
}

#[derive(Debug)]
pub(super) struct HistogramSeries {
    /// In microseconds.
    sum: AtomicU64,
    buckets: Box<[AtomicU64]>,
}

impl FluxMeter {
    pub(super) fn new(policy_name: &Arc<str>, meter: &policy::FluxMeter) -> Result<Self, String> {
        let bounds = bounds(meter.buckets.as_ref())?;
        Ok(Self {
            name: Arc::clone(&meter.name),
            policy_name: Arc::clone(policy_name),
            attribute_key: Arc::clone(&meter.attribute_key),
            measured_here: *meter.attribute_key == *WORKLOAD_DURATION,
            ok: HistogramSeries::new(bounds.len()),
            other: HistogramSeries::new(bounds.len()),
            bounds,
        })
    }

    /// Returns the name of the meter.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the name of the policy that defines the meter.
    pub fn policy_name(&self) -> &str {
        &self.policy_name
    }

    /// Returns the key of the span attribute that the meter collects.
    pub fn attribute_key(&self) -> &str {
        &self.attribute_key
    }
    /// Returns the upper bounds of the buckets, in the unit of the attribute.
    pub fn bounds(&self) -> &[f64] {
        &self.bounds
    }

    pub(super) fn has_same_form(&self, other: &Self) -> bool {
        self.bounds == other.bounds
            && self.attribute_key == other.attribute_key
            && self.policy_name == other.policy_name
    }

    pub(super) fn record(&self, duration: Nanos, ok: bool) {
        if !self.measured_here {
            return;
        }
        self.add(u64::try_from(duration / 1000).unwrap_or(0), ok);
    }

    /// Records a value that was measured elsewhere. A negative value counts as zero.
    pub fn observe(&self, value: f64, ok: bool) {
        // Casts saturate.
        self.add((value * 1000.0) as u64, ok);
    }

    fn add(&self, micros: u64, ok: bool) {
        let millis = micros as f64 / 1000.0;
        let series = if ok { &self.ok } else { &self.other };
        let bucket = self.bounds.partition_point(|bound| *bound < millis);
        series.sum.fetch_add(micros, Relaxed);
        series.buckets[bucket].fetch_add(1, Relaxed);
    }
}

impl HistogramSeries {
    fn new(bounds: usize) -> Self {
        Self {
            sum: AtomicU64::new(0),
            buckets: (0..=bounds).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn counts(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed))
    }

    pub(super) fn read(&self, all: bool) -> HistogramReading {
        HistogramReading {
            count: self.counts().sum(),
            sum: self.sum.load(Relaxed),
            buckets: if all {
                self.counts().collect()
            } else {
                Box::default()
            },
        }
    }
}

pub(super) fn bounds(buckets: Option<&Buckets>) -> Result<Box<[f64]>, String> {
    let count = match buckets {
        None => 0,
        Some(Buckets::Static(bounds)) => bounds.len(),
        Some(
            Buckets::Linear { count, .. }
            | Buckets::Exponential { count, .. }
            | Buckets::ExponentialRange { count, .. },
        ) => *count as usize,
    };
    if count > MAX_BUCKETS {
        return Err(format!(
            "{count} buckets are too many, the limit is {MAX_BUCKETS}"
        ));
    }
    let at = |count: u32| (0..count).map(f64::from);
    let mut bounds: Vec<f64> = match buckets {
        None => DEFAULT_BOUNDS.into(),
        Some(Buckets::Static(bounds)) if bounds.is_empty() => DEFAULT_BOUNDS.into(),
        Some(Buckets::Static(bounds)) => bounds.clone(),
        Some(Buckets::Linear {
            start,
            width,
            count,
        }) => at(*count).map(|at| start + width * at).collect(),
        Some(Buckets::Exponential {
            start,
            factor,
            count,
        }) => at(*count).map(|at| start * factor.powf(at)).collect(),
        Some(Buckets::ExponentialRange { min, max, count }) => {
            let steps = f64::from(count.saturating_sub(1).max(1));
            at(*count)
                .map(|at| min * (max / min).powf(at / steps))
                .collect()
        }
    };
    bounds.retain(|bound| bound.is_finite());
    bounds.sort_by(f64::total_cmp);
    bounds.dedup();
    Ok(bounds.into())
}

/// The values of a series at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct HistogramReading {
    pub(super) count: u64,
    /// In microseconds.
    pub(super) sum: u64,
    /// Empty if only the mean is wanted.
    pub(super) buckets: Box<[u64]>,
}
