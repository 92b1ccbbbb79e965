//! The components that policies may have, with their common interface.
//!
//! A new component takes a new file and an arm in every `match` of [`Component`].

use std::time::Duration;

use super::clock::Nanos;
use super::component::ComponentContext;
use super::decision::{ComponentDecision, DecisionStep, DecisionWithSlot};
use super::engine_flow::EngineFlow;
use super::limiters::{BucketParams, ConcurrencyLimiter, RateLimiter, Sampler};
use super::schedulers::{
    ConcurrencyScheduler, LoadScheduler, QuotaScheduler, ScheduleResult, WorkloadRequest, Workloads,
};
use crate::policy::ComponentKind;

/// One component of a policy, with its state.
#[derive(Debug)]
pub(crate) enum Component {
    RateLimiter(RateLimiter),
    ConcurrencyLimiter(ConcurrencyLimiter),
    Sampler(Sampler),
    QuotaScheduler(QuotaScheduler),
    ConcurrencyScheduler(ConcurrencyScheduler),
    LoadScheduler(LoadScheduler),
}

impl Component {
    pub(crate) fn new(kind: &ComponentKind, context: &ComponentContext) -> Self {
        match kind {
            ComponentKind::RateLimiter(spec) => Self::RateLimiter(RateLimiter::new(spec, context)),
            ComponentKind::ConcurrencyLimiter(spec) => Self::ConcurrencyLimiter(
                ConcurrencyLimiter::new(spec, context.limits, &context.clock),
            ),
            ComponentKind::Sampler(spec) => {
                Self::Sampler(Sampler::new(spec, context.upstream_ramp_mode))
            }
            ComponentKind::QuotaScheduler(spec) => {
                Self::QuotaScheduler(QuotaScheduler::new(spec, context))
            }
            ComponentKind::ConcurrencyScheduler(spec) => {
                Self::ConcurrencyScheduler(ConcurrencyScheduler::new(spec, context))
            }
            ComponentKind::LoadScheduler(spec) => {
                Self::LoadScheduler(LoadScheduler::new(spec, context))
            }
        }
    }

    /// Returns the component of a changed policy with the state of this one. Returns `None` if the
    /// state does not fit, because the component is of another kind or has other keys.
    ///
    /// Changes nothing yet: the policy may still be refused.
    pub(crate) fn successor(
        &self,
        kind: &ComponentKind,
        context: &ComponentContext,
    ) -> Option<Self> {
        Some(match (self, kind) {
            (Self::RateLimiter(limiter), ComponentKind::RateLimiter(spec)) => {
                Self::RateLimiter(limiter.successor(spec, context)?)
            }
            (Self::ConcurrencyLimiter(limiter), ComponentKind::ConcurrencyLimiter(spec)) => {
                Self::ConcurrencyLimiter(limiter.successor(spec)?)
            }
            (Self::Sampler(sampler), ComponentKind::Sampler(spec)) => {
                Self::Sampler(sampler.successor(spec, context.upstream_ramp_mode))
            }
            (Self::QuotaScheduler(scheduler), ComponentKind::QuotaScheduler(spec)) => {
                Self::QuotaScheduler(scheduler.successor(spec)?)
            }
            (Self::ConcurrencyScheduler(scheduler), ComponentKind::ConcurrencyScheduler(spec)) => {
                Self::ConcurrencyScheduler(scheduler.successor(spec)?)
            }
            (Self::LoadScheduler(scheduler), ComponentKind::LoadScheduler(spec)) => {
                Self::LoadScheduler(scheduler.successor(spec))
            }
            _ => return None,
        })
    }

    /// Continues with the state of `from` under the values of its own policy, now that the policy
    /// is in force.
    pub(crate) fn take_over(
        &self,
        from: &Self,
        kind: &ComponentKind,
        context: &ComponentContext,
        now: Nanos,
    ) {
        match (self, from, kind) {
            (Self::RateLimiter(limiter), Self::RateLimiter(from), _) => {
                limiter.take_over(from, now);
            }
            (Self::ConcurrencyLimiter(limiter), _, ComponentKind::ConcurrencyLimiter(spec)) => {
                limiter.take_over(spec);
            }
            (Self::QuotaScheduler(scheduler), _, ComponentKind::QuotaScheduler(spec)) => {
                scheduler.take_over(spec, context, now);
            }
            (
                Self::ConcurrencyScheduler(scheduler),
                _,
                ComponentKind::ConcurrencyScheduler(spec),
            ) => scheduler.take_over(spec, now),
            (Self::LoadScheduler(scheduler), _, ComponentKind::LoadScheduler(spec)) => {
                scheduler.take_over(spec, context.manual_signals, now);
            }
            // A sampler has no state but its percentage.
            _ => {}
        }
    }

    #[inline]
    pub(crate) fn step(&self) -> DecisionStep {
        match self {
            Self::RateLimiter(_) | Self::ConcurrencyLimiter(_) => DecisionStep::Limiters,
            Self::Sampler(sampler) => sampler.step(),
            Self::ConcurrencyScheduler(_) => DecisionStep::Concurrency,
            Self::QuotaScheduler(_) | Self::LoadScheduler(_) => DecisionStep::Schedulers,
        }
    }

    /// Returns the status code that the policy sets for flows rejected by this component; 0 means
    /// none.
    pub(crate) fn denied_code(&self) -> i32 {
        match self {
            Self::RateLimiter(limiter) => limiter.denied_code(),
            Self::ConcurrencyLimiter(limiter) => limiter.denied_code(),
            Self::Sampler(sampler) => sampler.denied_code(),
            Self::QuotaScheduler(scheduler) => scheduler.denied_code(),
            Self::ConcurrencyScheduler(scheduler) => scheduler.denied_code(),
            Self::LoadScheduler(scheduler) => scheduler.denied_code(),
        }
    }

    /// Decides without waiting: a scheduler rejects a flow that would have to queue.
    #[inline(always)]
    pub(crate) fn decide(&self, flow: &EngineFlow<'_, '_>, now: Nanos) -> DecisionWithSlot {
        match self {
            Self::RateLimiter(limiter) => DecisionWithSlot::from(limiter.decide(flow, now)),
            Self::ConcurrencyLimiter(limiter) => {
                let (decision, slot) = limiter.decide(flow, now);
                DecisionWithSlot { decision, slot }
            }
            Self::Sampler(sampler) => DecisionWithSlot::from(sampler.decide(flow)),
            _ => match self.schedule(flow, now) {
                ScheduleResult::Decided(decided) => decided,
                ScheduleResult::Queued(_) => DecisionWithSlot::from(ComponentDecision::REJECTED),
            },
        }
    }

    /// Decides about the flow, or puts it in a queue.
    #[inline(never)]
    pub(crate) fn schedule(&self, flow: &EngineFlow<'_, '_>, now: Nanos) -> ScheduleResult {
        match self {
            Self::QuotaScheduler(scheduler) => scheduler.schedule(flow, now),
            Self::ConcurrencyScheduler(scheduler) => scheduler.schedule(flow, now),
            Self::LoadScheduler(scheduler) => scheduler.schedule(flow, now),
            Self::RateLimiter(_) | Self::ConcurrencyLimiter(_) | Self::Sampler(_) => {
                ScheduleResult::Decided(self.decide(flow, now))
            }
        }
    }

    /// Returns the tokens of a flow that was accepted here and then rejected by another component.
    /// Slots are returned by dropping them.
    pub(crate) fn revert(&self, flow: &EngineFlow<'_, '_>, consumed: f64, now: Nanos) {
        match self {
            Self::RateLimiter(limiter) => limiter.revert(flow, consumed, now),
            Self::QuotaScheduler(scheduler) => scheduler.revert(flow, consumed, now),
            Self::LoadScheduler(scheduler) => scheduler.revert(consumed, now),
            Self::ConcurrencyLimiter(_) | Self::ConcurrencyScheduler(_) | Self::Sampler(_) => {}
        }
    }

    /// Returns the key of the label that the component limits by, if the flow lacks it. Returns
    /// `None` if the component accepts every flow anyway.
    pub(crate) fn missing_label(&self, flow: &EngineFlow<'_, '_>) -> Option<&str> {
        let label = match self {
            Self::RateLimiter(limiter) => limiter.active_label_key(),
            Self::ConcurrencyLimiter(limiter) => limiter.slot_rules().active_label_key(),
            Self::QuotaScheduler(scheduler) => scheduler.active_label_key(),
            Self::ConcurrencyScheduler(scheduler) => scheduler.slot_rules().active_label_key(),
            Self::LoadScheduler(_) | Self::Sampler(_) => None,
        };
        label.filter(|label| flow.labels.get(label).is_none())
    }

    /// Returns the longest `queue_timeout` of its workloads; 0 if no flow ever queues.
    pub(crate) fn longest_queue_timeout(&self) -> Nanos {
        self.workloads().map_or(0, Workloads::longest_queue_timeout)
    }

    /// Returns the name and the `queue_timeout` of a flow's workload, if it has one.
    pub(crate) fn queue_timeout(&self, flow: &EngineFlow<'_, '_>) -> Option<(&str, Duration)> {
        self.workloads()?.queue_timeout(flow)
    }

    /// Returns the workloads of a scheduler.
    pub(crate) fn workloads(&self) -> Option<&Workloads> {
        match self {
            Self::QuotaScheduler(scheduler) => Some(scheduler.workloads()),
            Self::ConcurrencyScheduler(scheduler) => Some(scheduler.workloads()),
            Self::LoadScheduler(scheduler) => Some(scheduler.workloads()),
            Self::RateLimiter(_) | Self::ConcurrencyLimiter(_) | Self::Sampler(_) => None,
        }
    }

    /// Returns the key of the label that the component decides by, if it decides by one.
    pub(crate) fn label_key(&self) -> Option<&str> {
        match self {
            Self::RateLimiter(limiter) => limiter.label_key(),
            Self::ConcurrencyLimiter(limiter) => limiter.slot_rules().label_key.as_deref(),
            Self::Sampler(sampler) => sampler.session_key(),
            Self::QuotaScheduler(scheduler) => scheduler.label_key(),
            Self::ConcurrencyScheduler(scheduler) => scheduler.slot_rules().label_key.as_deref(),
            Self::LoadScheduler(_) => None,
        }
    }

    /// Returns the workload, the tokens and the priority of a flow, if the component is a
    /// scheduler.
    pub(crate) fn workload<'a>(&'a self, flow: &EngineFlow<'a, '_>) -> Option<WorkloadRequest<'a>> {
        Some(match self {
            Self::LoadScheduler(scheduler) => scheduler.request(flow, 0),
            _ => self.workloads()?.request(flow, 0, None),
        })
    }

    /// Returns the current parameters of the buckets, for components that have a quota.
    pub(crate) fn bucket_params(&self) -> Option<BucketParams> {
        match self {
            Self::RateLimiter(limiter) => Some(limiter.bucket_params()),
            Self::QuotaScheduler(scheduler) => Some(scheduler.bucket_params()),
            _ => None,
        }
    }

    /// Returns true if the component measures how long flows take.
    pub(crate) fn times_workloads(&self) -> bool {
        matches!(self, Self::LoadScheduler(scheduler) if scheduler.latency().is_some())
    }

    /// Returns the number of keys with state.
    pub(crate) fn keys(&self) -> usize {
        match self {
            Self::RateLimiter(limiter) => limiter.keys(),
            Self::ConcurrencyLimiter(limiter) => limiter.keys(),
            Self::QuotaScheduler(scheduler) => scheduler.keys(),
            Self::ConcurrencyScheduler(scheduler) => scheduler.keys(),
            Self::Sampler(_) | Self::LoadScheduler(_) => 0,
        }
    }

    /// Returns the number of keys that were evicted.
    pub(crate) fn evicted(&self) -> u64 {
        match self {
            Self::RateLimiter(limiter) => limiter.evicted(),
            Self::ConcurrencyLimiter(limiter) => limiter.evicted(),
            Self::QuotaScheduler(scheduler) => scheduler.evicted(),
            Self::ConcurrencyScheduler(scheduler) => scheduler.evicted(),
            Self::Sampler(_) | Self::LoadScheduler(_) => 0,
        }
    }
}
