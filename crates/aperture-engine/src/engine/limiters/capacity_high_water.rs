//! What a key gains when the capacity of its bucket is raised.

use super::bucket::BucketParams;
use crate::engine::clock::Nanos;

/// Computes how many tokens a raised capacity adds to existing buckets.
///
/// A key that has spent 5 of 5 tokens gains one when the capacity is raised to 6. Lowering and
/// raising the capacity again must not create tokens, so the highest capacity counts for as long as
/// a bucket takes to fill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CapacityHighWater {
    capacity: f64,
    /// From this time on, every bucket has been filled since the capacity was lowered.
    until: Nanos,
}

impl CapacityHighWater {
    pub(crate) const NONE: Self = Self {
        capacity: f64::NEG_INFINITY,
        until: Nanos::MIN,
    };

    /// Records a change of parameters and returns how many tokens each bucket gains.
    pub(crate) fn record_change(
        &mut self,
        from: &BucketParams,
        to: &BucketParams,
        now: Nanos,
    ) -> f64 {
        let highest = match now < self.until {
            true => self.capacity.max(from.capacity),
            false => from.capacity,
        };
        if to.capacity < highest {
            let filling = match to.fill > 0.0 {
                true => to.time_to_fill(to.capacity.max(0.0)),
                false => Nanos::MAX,
            };
            *self = Self {
                capacity: highest,
                until: self.until.max(now.saturating_add(filling)),
            };
            return 0.0;
        }
        *self = Self::NONE;
        let more = to.capacity - highest;
        if more.is_finite() { more.max(0.0) } else { 0.0 }
    }
}
