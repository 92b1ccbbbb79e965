//! A checked policy: what the loader makes and the engine runs.

use std::sync::Arc;
use std::time::Duration;

use super::matcher::LabelMatcher;

/// A policy that has been read, checked and folded.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// `metadata.name`, the values' `policy_name`, or the file's stem.
    pub(crate) name: Arc<str>,
    /// Stable for the same decoded content; opaque otherwise.
    pub(crate) hash: Arc<str>,
    /// The components that decide, in the order of the file.
    pub(crate) components: Vec<Component>,
}

/// One component that decides.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    /// `root.i`, see the Agent's own ids.
    pub(crate) id: Arc<str>,
    /// OR: the component is taken once however many match.
    pub(crate) selectors: Vec<Selector>,
    pub(crate) kind: ComponentKind,
}

/// What a component does.
#[derive(Clone, Debug)]
pub(crate) enum ComponentKind {
    RateLimiter(RateLimiter),
}

/// Where a component applies.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    pub(crate) control_point: Arc<str>,
    /// `any` when absent.
    pub(crate) service: Arc<str>,
    /// As written; the engine knows what an absent one means.
    pub(crate) agent_group: Option<Arc<str>>,
    pub(crate) matcher: LabelMatcher,
}

/// A signal after folding; NaN is the invalid signal, infinities are valid.
pub(crate) type Signal = f64;

/// `rate_limiter`, with defaults applied.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RateLimiter {
    pub(crate) bucket_capacity: Signal,
    pub(crate) fill_amount: Signal,
    /// Valid and not zero: let everything pass. Invalid when not wired.
    pub(crate) pass_through: Signal,
    /// More than zero.
    pub(crate) interval: Duration,
    pub(crate) continuous_fill: bool,
    pub(crate) delay_initial_fill: bool,
    /// Zero when the policy has zero or less.
    pub(crate) max_idle_time: Duration,
    /// `limit_by_label_key`, or else the deprecated `label_key`; `None` is one bucket for all.
    pub(crate) limit_by_label_key: Option<Arc<str>>,
    pub(crate) tokens_label_key: Option<Arc<str>>,
    /// 0 when the policy names none.
    pub(crate) denied_response_status_code: i32,
    /// `num_sync` when lazy sync is enabled.
    pub(crate) lazy_sync: Option<u32>,
}

impl RateLimiter {
    /// Every flow is let through without looking at a bucket: an invalid capacity or fill, a
    /// pass-through that is on, or all of them zero, which the Agent takes for "not set yet".
    pub(crate) fn passes_through(&self) -> bool {
        let on = !self.pass_through.is_nan() && self.pass_through != 0.0;
        let unset = self.bucket_capacity == 0.0 && self.fill_amount == 0.0;
        on || unset || self.bucket_capacity.is_nan() || self.fill_amount.is_nan()
    }
}
