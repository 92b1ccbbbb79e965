//! The components that decide at once, one file each, what they read of a flow, and the buckets and
//! slots that they count in.

pub(super) mod bucket;
pub(super) mod bucket_inputs;
pub(super) mod capacity_high_water;
pub(super) mod concurrency_limiter;
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
use crate::policy;

pub(crate) use self::bucket::BucketParams;
pub(crate) use self::concurrency_limiter::ConcurrencyLimiter;
pub(crate) use self::rate_limiter::RateLimiter;
pub(crate) use self::sampler::Sampler;

/// A component that decides about a flow at once.
pub(crate) trait Limiter: PolicyComponent {
    /// Decides about a flow, and takes its tokens or its slot if it accepts the flow.
    fn decide(&self, flow: &EngineFlow<'_, '_>, now: Nanos) -> DecisionWithSlot;
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
