//! The interface that all components of policies share.

use std::sync::Arc;

use super::clock::{Clock, Nanos};
use super::control::Actuator;
use super::decision::{ComponentDecision, DecisionStep};
use super::engine_flow::EngineFlow;
use super::limiters::LimitsInForce;
use super::request_id::RequestId;
use super::shared::{SharedContext, StoreAsk};
use super::store::StoreLimits;
use crate::policy::ComponentKind;

/// What all components of an engine share.
#[derive(Clone, Debug)]
pub(crate) struct ComponentContext {
    pub(crate) limits: StoreLimits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) upstream_ramp_mode: bool,
    pub(crate) upstream_buckets: bool,
    /// Load schedulers and samplers get their signals only from [`Engine::actuate`].
    ///
    /// [`Engine::actuate`]: super::Engine::actuate
    pub(crate) manual_signals: bool,
    /// The shared store and the component that uses it; `None` if the engine has no such store.
    pub(crate) shared: Option<SharedContext>,
}

impl ComponentContext {
    /// Returns the context of one component of a policy.
    pub(crate) fn of_component(&self, policy: &Arc<str>, component: &Arc<str>) -> Self {
        let shared = self.shared.as_ref();
        Self {
            shared: shared.map(|shared| shared.of_component(policy, component)),
            ..self.clone()
        }
    }
}

/// A component that is made from a policy, and made anew when the policy changes.
pub(crate) trait FromPolicy: Sized {
    /// What a policy says about the component.
    type Spec;

    /// Returns what a policy says about a component of this kind; `None` for another kind.
    fn spec(kind: &ComponentKind) -> Option<&Self::Spec>;

    /// Creates the component without state. Returns `None` if another component takes its place in
    /// engines like this one: with a shared store, or without one.
    fn new(spec: &Self::Spec, context: &ComponentContext) -> Option<Self>;

    /// Returns the component of a changed policy with the state of this one. Returns `None` if the
    /// state does not fit, because the component has other keys.
    ///
    /// Changes nothing yet: the policy may still be refused.
    fn successor(&self, spec: &Self::Spec, context: &ComponentContext) -> Option<Self>;

    /// Continues with the state of `from` under the values of its own policy, now that the policy
    /// is in force.
    fn take_over(&self, from: &Self, spec: &Self::Spec, context: &ComponentContext, now: Nanos);
}

/// What limiters and schedulers have in common. A circuit may drive each of them.
pub(crate) trait PolicyComponent: Actuator {
    /// Returns the kind by which reports and metrics name the component.
    fn reported_kind(&self) -> ReportedKind;

    /// Returns the step in which the component decides. It never changes.
    fn step(&self) -> DecisionStep;

    /// Returns the status code that the policy sets for flows rejected by this component; 0 means
    /// none.
    fn denied_code(&self) -> i32;

    /// Returns the tokens of a flow that was accepted here and then rejected by another component.
    /// Slots are returned by dropping them.
    fn revert(&self, _flow: &EngineFlow<'_, '_>, _decision: &ComponentDecision, _now: Nanos) {}

    /// Returns the key of the label that the component decides by, if it decides by one.
    fn label_key(&self) -> Option<&str> {
        None
    }

    /// Returns the key of a label that flows need, or `None` if the component accepts every flow
    /// now, or decides without a label.
    fn required_label_key(&self) -> Option<&str> {
        None
    }

    /// Returns the times of a bucket that holds `remaining` tokens; `None` for a component without
    /// buckets.
    fn fill_times(&self, _remaining: f64) -> Option<FillTimes> {
        None
    }

    /// Returns the slots of the component, if flows hold slots.
    fn slots(&self) -> Option<&dyn LabelledSlots> {
        None
    }

    /// Returns the limits that the component has found, if it finds them by itself.
    fn limits_in_force(&self) -> Option<LimitsInForce> {
        None
    }

    /// Returns the number of keys with state.
    fn keys(&self) -> usize {
        0
    }

    /// Returns the number of keys that were evicted.
    fn evicted(&self) -> u64 {
        0
    }
}

/// The kind of a component in reports and metrics: one of the kinds that an Agent has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReportedKind {
    RateLimiter,
    ConcurrencyLimiter,
    Sampler,
    QuotaScheduler,
    ConcurrencyScheduler,
    LoadScheduler,
}

impl ReportedKind {
    /// Returns the name of the kind as it is written in policies.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RateLimiter => "rate_limiter",
            Self::ConcurrencyLimiter => "concurrency_limiter",
            Self::Sampler => "sampler",
            Self::QuotaScheduler => "quota_scheduler",
            Self::ConcurrencyScheduler => "concurrency_scheduler",
            Self::LoadScheduler => "load_scheduler",
        }
    }
}

/// How long a bucket takes to fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FillTimes {
    /// From empty to full; 0 if it never fills.
    pub(crate) whole: Nanos,
    /// From the tokens that it holds to full.
    pub(crate) rest: Nanos,
}

/// The slots of a component, by the labels that reports show.
pub(crate) trait LabelledSlots {
    /// Returns true if the component limits the flows in flight now.
    fn are_limited(&self) -> bool;

    /// Returns the slot `id` of the key that `label`, from a report, stands for. Returns false if
    /// it was not held.
    fn return_slot(&self, label: &str, id: RequestId, now: Nanos) -> bool;

    /// Like [`return_slot`](Self::return_slot), for a caller that can wait for the reply of a shared
    /// store.
    fn start_return(&self, label: &str, id: RequestId, now: Nanos) -> StartedReturn {
        StartedReturn::Done(self.return_slot(label, id, now))
    }
}

/// The return of a slot that may still be under way.
#[derive(Debug)]
pub(crate) enum StartedReturn {
    /// The slot is returned; true if it was held.
    Done(bool),
    /// The reply of the shared store says whether the slot was held.
    Asked(StoreAsk),
}
