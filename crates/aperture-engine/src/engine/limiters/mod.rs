//! The components that decide at once, one file each, what they read of a flow, and the buckets and
//! slots that they count in.

mod adaptive;
pub(super) mod bucket;
pub(super) mod bucket_inputs;
pub(super) mod capacity_high_water;
pub(super) mod concurrency_limiter;
pub(super) mod in_flight_slots;
pub(super) mod key_bucket;
pub(super) mod lazy_sync;
mod rate_limiter;
mod sampler;
mod shared_account;
mod shared_buckets;
mod shared_concurrency_limiter;
mod shared_rate_limiter;
mod sum_tree;

use super::clock::{DecisionTime, Nanos};
use super::component::PolicyComponent;
use super::decision::DecisionWithSlot;
use super::engine_flow::EngineFlow;
use super::schedulers::ScheduleResult;
use super::shared::StoreAnswer;
use crate::policy;

pub(crate) use self::adaptive::{AdaptiveLimiter, LimitsInForce};
pub(crate) use self::bucket::BucketParams;
pub(crate) use self::concurrency_limiter::ConcurrencyLimiter;
pub(crate) use self::rate_limiter::RateLimiter;
pub(crate) use self::sampler::Sampler;
pub(crate) use self::shared_concurrency_limiter::SharedConcurrencyLimiter;
pub(crate) use self::shared_rate_limiter::SharedRateLimiter;

/// A component that decides about a flow at once.
pub(crate) trait Limiter: PolicyComponent {
    /// Decides about a flow, and takes its tokens or its slot if it accepts the flow.
    fn decide(&self, flow: &EngineFlow<'_, '_>, time: &DecisionTime<'_>) -> DecisionWithSlot;
}

/// The key by which a flow is limited.
pub(crate) enum FlowKey<'a> {
    Present(&'a str),
    Missing,
}

/// Returns the tokens that a flow asks for. Ignores a label value that is not a number or not
/// finite, because NaN would corrupt the state.
#[inline(always)]
pub(crate) fn requested_tokens(label_key: Option<&str>, flow: &EngineFlow<'_, '_>) -> f64 {
    match label_key {
        None => 1.0,
        Some(key) => parse_tokens_label(key, flow),
    }
}

fn parse_tokens_label(key: &str, flow: &EngineFlow<'_, '_>) -> f64 {
    flow.labels
        .get(key)
        .and_then(policy::parse_number)
        .filter(|tokens| tokens.is_finite())
        .unwrap_or(1.0)
}

/// A limiter whose state is in a shared store.
pub(crate) trait SharedLimiter: PolicyComponent {
    /// Asks the store about a flow, or decides without it.
    fn ask(&self, flow: &EngineFlow<'_, '_>, time: &DecisionTime<'_>) -> ScheduleResult;

    /// Decides by the answer of the store.
    fn resume(
        &self,
        flow: &EngineFlow<'_, '_>,
        answer: StoreAnswer,
        now: Nanos,
    ) -> DecisionWithSlot;
}
