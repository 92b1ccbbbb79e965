//! The counters of one flux meter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::engine::clock::Nanos;
use crate::policy::{self, Buckets};

/// Milliseconds; the documented default.
pub(super) const DEFAULT_BOUNDS: [f64; 11] = [
    5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0,
];
const MAX_BUCKETS: usize = 1000;
/// What an engine measures; other attributes are made elsewhere.
pub(super) const WORKLOAD_DURATION: &str = "workload_duration_ms";

/// A histogram, in milliseconds.
#[derive(Debug)]
pub(crate) struct FluxMeter {
    pub(super) name: Arc<str>,
    pub(super) policy_name: Arc<str>,
    pub(super) attribute_key: Arc<str>,
    /// The upper ends of the buckets, rising; one more bucket is without end.
    pub(super) bounds: Box<[f64]>,
    /// The attribute is one that flows have here.
    pub(super) measured: bool,
    pub(super) ok: Series,
    /// Errors, and flows that were turned away.
    pub(super) other: Series,
}

#[derive(Debug)]
pub(super) struct Series {
    /// Microseconds.
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
            measured: *meter.attribute_key == *WORKLOAD_DURATION,
            ok: Series::new(bounds.len()),
            other: Series::new(bounds.len()),
            bounds,
        })
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The policy that has it.
    #[cfg(feature = "server")]
    pub(crate) fn policy_name(&self) -> &str {
        &self.policy_name
    }

    /// The attribute of spans that it collects.
    #[cfg(feature = "server")]
    pub(crate) fn attribute_key(&self) -> &str {
        &self.attribute_key
    }

    #[cfg(feature = "server")]
    pub(crate) fn bounds(&self) -> &[f64] {
        &self.bounds
    }

    pub(super) fn same_form(&self, other: &Self) -> bool {
        self.bounds == other.bounds
            && self.attribute_key == other.attribute_key
            && self.policy_name == other.policy_name
    }

    pub(super) fn record(&self, took: Nanos, ok: bool) {
        if !self.measured {
            return;
        }
        self.add(u64::try_from(took / 1000).unwrap_or(0), ok);
    }

    /// A value that was measured elsewhere; what is negative counts as zero.
    #[cfg(feature = "server")]
    pub(crate) fn observe(&self, value: f64, ok: bool) {
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

impl Series {
    fn new(bounds: usize) -> Self {
        Self {
            sum: AtomicU64::new(0),
            buckets: (0..=bounds).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn counts(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed))
    }

    pub(super) fn read(&self, all: bool) -> Reading {
        Reading {
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
            "{count} buckets are too many: {MAX_BUCKETS} at most"
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

/// What a series had at a time.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    pub(super) count: u64,
    /// Microseconds.
    pub(super) sum: u64,
    /// Empty where only the mean is wanted.
    pub(super) buckets: Box<[u64]>,
}
