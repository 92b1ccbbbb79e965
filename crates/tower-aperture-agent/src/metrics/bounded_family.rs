//! A metric family with a bounded number of series.

use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};

use ahash::RandomState;
use hashbrown::{Equivalent, HashMap};
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::{MetricType, TypedMetric};

use aperture_engine::engine::InForceNames;

/// Series per metric with labels that callers chose.
const MAX_SHARED_SERIES: usize = 10_000;
/// Series per metric whose labels are all names of policies in force.
const MAX_RESERVED_SERIES: usize = 50_000;
/// Bytes of a label that a caller chose.
pub(super) const MAX_LABEL_BYTES: usize = 256;

/// How a series relates to the policies in force, which decides the limit it counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeriesClass {
    /// All its labels are names of policies in force; it counts against [`MAX_RESERVED_SERIES`].
    Reserved,
    /// A caller chose some of its labels; it counts against [`MAX_SHARED_SERIES`].
    Shared,
    /// It belongs to a policy that is not in force, and is removed.
    Gone,
}

/// The labels of a series.
pub(super) trait SeriesLabels: Eq + Hash {
    fn class(&self, names: &InForceNames) -> SeriesClass;
}

/// The series of one metric by label set. Clones share them.
///
/// Reserved and shared series have separate limits, so that labels chosen by callers never displace
/// series of policies.
pub(super) struct BoundedFamily<K, M> {
    state: Arc<RwLock<FamilyState<K, M>>>,
    left_out: Counter,
}

struct FamilyState<K, M> {
    all: HashMap<K, M, RandomState>,
    reserved: usize,
    shared: usize,
}

impl<K, M> Default for FamilyState<K, M> {
    fn default() -> Self {
        Self {
            all: HashMap::default(),
            reserved: 0,
            shared: 0,
        }
    }
}

impl<K, M> FamilyState<K, M> {
    /// Counts another series of this class. Returns false if the limit is reached.
    fn admit(&mut self, class: SeriesClass) -> bool {
        let (count, limit) = match class {
            SeriesClass::Reserved => (&mut self.reserved, MAX_RESERVED_SERIES),
            SeriesClass::Shared => (&mut self.shared, MAX_SHARED_SERIES),
            SeriesClass::Gone => return false,
        };
        let fits = *count < limit;
        *count += usize::from(fits);
        fits
    }
}

impl<K, M> BoundedFamily<K, M> {
    pub(super) fn new(left_out: &Counter) -> Self {
        Self {
            state: Arc::default(),
            left_out: left_out.clone(),
        }
    }
}

impl<K, M> Clone for BoundedFamily<K, M> {
    fn clone(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
            left_out: self.left_out.clone(),
        }
    }
}

impl<K: SeriesLabels, M> BoundedFamily<K, M> {
    /// Observes in the series with these labels. Creates the series if it is new and the limit
    /// allows it.
    pub(super) fn observe<Q>(
        &self,
        names: &InForceNames,
        labels: &Q,
        make_labels: impl FnOnce() -> Option<K>,
        make_metric: impl FnOnce() -> M,
        observe: impl FnOnce(&M),
    ) where
        Q: Hash + Equivalent<K>,
    {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(metric) = state.all.get(labels) {
            return observe(metric);
        }
        // When the shared limit is reached, labels chosen by callers must not take the write lock,
        // which others wait for.
        let full = state.shared >= MAX_SHARED_SERIES;
        drop(state);
        let Some(key) = make_labels() else {
            return self.count_left_out();
        };
        let class = key.class(names);
        if class == SeriesClass::Gone || (full && class == SeriesClass::Shared) {
            return self.count_left_out();
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(metric) = state.all.get(labels) {
            return observe(metric);
        }
        if !state.admit(class) {
            drop(state);
            return self.count_left_out();
        }
        observe(state.all.entry(key).or_insert_with(make_metric));
    }

    /// Removes the series of policies that are not in force any more.
    pub(super) fn retain(&self, names: &InForceNames) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *state);
        for (labels, metric) in before.all {
            if state.admit(labels.class(names)) {
                state.all.insert(labels, metric);
            }
        }
    }
}

impl<K, M> BoundedFamily<K, M> {
    /// Counts an observation without a series.
    pub(super) fn count_left_out(&self) {
        self.left_out.inc();
    }

    /// Calls `visit` for each series.
    pub(super) fn each(
        &self,
        mut visit: impl FnMut(&K, &M) -> Result<(), fmt::Error>,
    ) -> Result<(), fmt::Error> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut all = state.all.iter();
        all.try_for_each(|(labels, metric)| visit(labels, metric))
    }
}

impl<K, M> EncodeMetric for BoundedFamily<K, M>
where
    K: EncodeLabelSet + Eq + Hash,
    M: EncodeMetric + TypedMetric,
{
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        self.each(|labels, metric| metric.encode(encoder.encode_family(labels)?))
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

impl<K, M> fmt::Debug for BoundedFamily<K, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedFamily").finish_non_exhaustive()
    }
}
