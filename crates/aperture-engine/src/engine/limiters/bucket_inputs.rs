//! The signals that set the capacity and the filling of buckets.

use super::bucket::BucketParams;
use super::key_bucket::BucketRules;
use crate::engine::atomic_signal::AtomicSignal;
use crate::policy;

/// The current signals of a bucket; NaN means invalid.
#[derive(Debug)]
pub(crate) struct BucketInputs {
    capacity: AtomicSignal,
    fill: AtomicSignal,
    pub(super) pass_through: AtomicSignal,
}

impl BucketInputs {
    pub(crate) fn new(bucket: &policy::Bucket) -> Self {
        Self {
            capacity: AtomicSignal::new(bucket.bucket_capacity.initial()),
            fill: AtomicSignal::new(bucket.fill_amount.initial()),
            pass_through: AtomicSignal::new(bucket.pass_through.initial()),
        }
    }

    pub(crate) fn set(&self, capacity: f64, fill: f64, pass_through: f64) {
        self.capacity.set(capacity);
        self.fill.set(fill);
        self.pass_through.set(pass_through);
    }

    /// Takes over the constants of a policy and leaves the signals that a circuit sets unchanged.
    pub(crate) fn set_constants(&self, bucket: &policy::Bucket) {
        self.capacity.set_if_constant(bucket.bucket_capacity);
        self.fill.set_if_constant(bucket.fill_amount);
        self.pass_through.set_if_constant(bucket.pass_through);
    }

    pub(crate) fn passes_all(&self) -> bool {
        let (capacity, fill) = (self.capacity.get(), self.fill.get());
        policy::passes_through(capacity, fill, self.pass_through.get())
    }

    /// Returns the rules with the current signals.
    pub(crate) fn apply(&self, rules: &BucketRules) -> BucketRules {
        let params = BucketParams {
            capacity: self.capacity.get(),
            fill: self.fill.get(),
            ..rules.params
        };
        BucketRules { params, ..*rules }
    }
}
