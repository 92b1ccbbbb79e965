//! The components that decide at once, one file each, and the buckets and slots that they count in.

mod adaptive;
pub(super) mod bucket;
pub(super) mod bucket_inputs;
pub(super) mod capacity_high_water;
pub(super) mod concurrency_limiter;
pub(super) mod flow_key;
pub(super) mod in_flight_slots;
pub(super) mod key_bucket;
pub(super) mod lazy_sync;
mod rate_limiter;
mod sampler;
mod sum_tree;

use super::clock::Nanos;
use super::component::PolicyComponent;
use super::decision::DecisionWithSlot;
use super::engine_flow::EngineFlow;

pub(crate) use self::adaptive::{AdaptiveLimiter, LimitsInForce};
pub(crate) use self::bucket::BucketParams;
pub(crate) use self::concurrency_limiter::ConcurrencyLimiter;
pub(crate) use self::rate_limiter::RateLimiter;
pub(crate) use self::sampler::Sampler;

/// A component that decides about a flow at once.
pub(crate) trait Limiter: PolicyComponent {
    /// Decides about a flow, and takes its tokens or its slot if it accepts the flow.
    fn decide(&self, flow: &EngineFlow<'_, '_>, now: Nanos) -> DecisionWithSlot;
}
