//! A bounded number of series of one name.

use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};

use ahash::RandomState;
use hashbrown::{Equivalent, HashMap};
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::{MOST_RESERVED, MOST_SERIES};
use crate::engine::InForceNames;

/// What a series is to the policies in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// All of its labels are names of policies, so it has a place of its own.
    Reserved,
    /// A caller chose some label: it shares [`MOST_SERIES`] places with all others of the kind.
    Shared,
    /// It is of a policy that is not in force.
    Gone,
}

/// The labels of a series.
pub(super) trait Labels: Eq + Hash {
    fn standing(&self, names: &InForceNames) -> Standing;
}

/// Series by label set. Clones share them.
///
/// Reserved series and those with labels of a caller have limits of their own, so made-up labels
/// cost no name of a policy its series.
pub(super) struct Series<K, M> {
    known: Arc<RwLock<Known<K, M>>>,
    left_out: Counter,
}

struct Known<K, M> {
    all: HashMap<K, M, RandomState>,
    reserved: usize,
    shared: usize,
}

impl<K, M> Default for Known<K, M> {
    fn default() -> Self {
        Self {
            all: HashMap::default(),
            reserved: 0,
            shared: 0,
        }
    }
}

impl<K, M> Known<K, M> {
    /// Counts one more series of this standing; false where it is one too many.
    fn admit(&mut self, standing: Standing) -> bool {
        let (count, most) = match standing {
            Standing::Reserved => (&mut self.reserved, MOST_RESERVED),
            Standing::Shared => (&mut self.shared, MOST_SERIES),
            Standing::Gone => return false,
        };
        let fits = *count < most;
        *count += usize::from(fits);
        fits
    }
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

impl<K: Labels, M> Series<K, M> {
    /// Observes in the series of these labels, which are made when they are new and fit in.
    pub(super) fn with<Q>(
        &self,
        names: &InForceNames,
        labels: &Q,
        own: impl FnOnce() -> Option<K>,
        make: impl FnOnce() -> M,
        observe: impl FnOnce(&M),
    ) where
        Q: Hash + Equivalent<K>,
    {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(metric) = known.all.get(labels) {
            return observe(metric);
        }
        // When all shared places are taken, made-up labels need no lock that others wait for.
        let full = known.shared >= MOST_SERIES;
        drop(known);
        let Some(key) = own() else {
            return self.leave_out();
        };
        let standing = key.standing(names);
        if standing == Standing::Gone || (full && standing == Standing::Shared) {
            return self.leave_out();
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(metric) = known.all.get(labels) {
            return observe(metric);
        }
        if !known.admit(standing) {
            drop(known);
            return self.leave_out();
        }
        observe(known.all.entry(key).or_insert_with(make));
    }

    /// Forgets the series of policies that are not in force any more.
    pub(super) fn retain(&self, names: &InForceNames) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *known);
        for (labels, metric) in before.all {
            if known.admit(labels.standing(names)) {
                known.all.insert(labels, metric);
            }
        }
    }
}

impl<K, M> Series<K, M> {
    /// There is no series for it.
    pub(super) fn leave_out(&self) {
        self.left_out.inc();
    }

    pub(super) fn each(
        &self,
        mut visit: impl FnMut(&K, &M) -> Result<(), fmt::Error>,
    ) -> Result<(), fmt::Error> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut all = known.all.iter();
        all.try_for_each(|(labels, metric)| visit(labels, metric))
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
