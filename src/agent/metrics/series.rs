//! A bounded number of series of one name.

use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};

use ahash::RandomState;
use hashbrown::{Equivalent, HashMap};
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::MOST_SERIES;

/// Series by label set. Clones share them.
pub(super) struct Series<K, M> {
    known: Arc<RwLock<HashMap<K, M, RandomState>>>,
    left_out: Counter,
}

impl<K, M> Series<K, M> {
    pub(super) fn new(left_out: &Counter) -> Self {
        Self {
            known: Arc::default(),
            left_out: left_out.clone(),
        }
    }
}

impl<K, M> Clone for Series<K, M> {
    fn clone(&self) -> Self {
        Self {
            known: Arc::clone(&self.known),
            left_out: self.left_out.clone(),
        }
    }
}

impl<K: Eq + Hash, M> Series<K, M> {
    /// Observes in the series of these labels, which are made when they are new and fit in.
    pub(super) fn with<Q>(
        &self,
        labels: &Q,
        own: impl FnOnce() -> Option<K>,
        make: impl FnOnce() -> M,
        observe: impl FnOnce(&M),
    ) where
        Q: Hash + Equivalent<K>,
    {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(metric) = known.get(labels) {
            return observe(metric);
        }
        drop(known);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let full = known.len() >= MOST_SERIES && known.get(labels).is_none();
        match own().filter(|_| !full) {
            Some(key) => observe(known.entry(key).or_insert_with(make)),
            None => self.leave_out(),
        }
    }

    /// There is no series for it.
    pub(super) fn leave_out(&self) {
        self.left_out.inc();
    }

    pub(super) fn each(
        &self,
        mut visit: impl FnMut(&K, &M) -> Result<(), fmt::Error>,
    ) -> Result<(), fmt::Error> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .try_for_each(|(labels, metric)| visit(labels, metric))
    }
}

impl<K, M> EncodeMetric for Series<K, M>
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

impl<K, M> fmt::Debug for Series<K, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Series").finish_non_exhaustive()
    }
}
