//! The list of all components that policies may have.
//!
//! A new component takes a file, which implements [`FromPolicy`], [`PolicyComponent`],
//! [`Actuator`], and [`Limiter`], [`SharedLimiter`] or [`Scheduler`], and a line in the list at the
//! end of this file.

use std::ops::Deref;
use std::time::Duration;

use super::clock::{DecisionTime, Nanos};
use super::component::{ComponentContext, FromPolicy, PolicyComponent};
use super::control::{Actuator, Demand, Setting};
use super::decision::{BriefDecision, DecisionWithSlot};
use super::engine_flow::EngineFlow;
use super::limiters::{
    AdaptiveLimiter, ConcurrencyLimiter, Limiter, RateLimiter, Sampler, SharedConcurrencyLimiter,
    SharedLimiter, SharedRateLimiter,
};
use super::schedulers::{
    ConcurrencyScheduler, LoadScheduler, QuotaScheduler, ScheduleResult, Scheduler,
    SharedConcurrencyScheduler, SharedQuotaScheduler,
};
use super::shared::StoreAnswer;
use super::workload_latency::WorkloadTokens;
use crate::policy::ComponentKind;

/// Makes [`Component`], an enum of all components, of the lists of limiters, of limiters with their
/// state in a shared store, and of schedulers.
///
/// An enum, because a call of a trait object costs more than the decision of a limiter.
macro_rules! registry {
    (
        limiters: [$($(#[$limiter_attribute:meta])* $limiter:ident,)*],
        shared_limiters: [$($shared:ident,)*],
        schedulers: [$($(#[$scheduler_attribute:meta])* $scheduler:ident,)*],
    ) => {
        /// One component of a policy, with its state.
        #[derive(Debug)]
        pub(crate) enum Component {
            $($(#[$limiter_attribute])* $limiter($limiter),)*
            $($shared($shared),)*
            $($(#[$scheduler_attribute])* $scheduler($scheduler),)*
        }

        impl Component {
            /// Creates the component that a policy describes. Returns `None` for a kind that no
            /// component of the registry is of.
            pub(crate) fn new(kind: &ComponentKind, context: &ComponentContext) -> Option<Self> {
                $($(#[$limiter_attribute])*
                if let Some(spec) = $limiter::spec(kind)
                    && let Some(limiter) = $limiter::new(spec, context)
                {
                    return Some(Self::$limiter(limiter));
                })*
                $(if let Some(spec) = $shared::spec(kind)
                    && let Some(limiter) = $shared::new(spec, context)
                {
                    return Some(Self::$shared(limiter));
                })*
                $($(#[$scheduler_attribute])*
                if let Some(spec) = $scheduler::spec(kind)
                    && let Some(scheduler) = $scheduler::new(spec, context)
                {
                    return Some(Self::$scheduler(scheduler));
                })*
                None
            }

            /// Returns the component of a changed policy with the state of this one. Returns
            /// `None` if the state does not fit, because the component is of another kind or has
            /// other keys.
            ///
            /// Changes nothing yet: the policy may still be refused.
            pub(crate) fn successor(
                &self,
                kind: &ComponentKind,
                context: &ComponentContext,
            ) -> Option<Self> {
                match self {
                    $($(#[$limiter_attribute])*
                    Self::$limiter(limiter) => {
                        let next = limiter.successor($limiter::spec(kind)?, context)?;
                        Some(Self::$limiter(next))
                    })*
                    $(Self::$shared(limiter) => {
                        let next = limiter.successor($shared::spec(kind)?, context)?;
                        Some(Self::$shared(next))
                    })*
                    $($(#[$scheduler_attribute])*
                    Self::$scheduler(scheduler) => {
                        let next = scheduler.successor($scheduler::spec(kind)?, context)?;
                        Some(Self::$scheduler(next))
                    })*
                }
            }

            /// Continues with the state of `from` under the values of its own policy, now that the
            /// policy is in force.
            pub(crate) fn take_over(
                &self,
                from: &Self,
                kind: &ComponentKind,
                context: &ComponentContext,
                now: Nanos,
            ) {
                match (self, from) {
                    $($(#[$limiter_attribute])*
                    (Self::$limiter(limiter), Self::$limiter(from)) => {
                        if let Some(spec) = $limiter::spec(kind) {
                            limiter.take_over(from, spec, context, now);
                        }
                    })*
                    $((Self::$shared(limiter), Self::$shared(from)) => {
                        if let Some(spec) = $shared::spec(kind) {
                            limiter.take_over(from, spec, context, now);
                        }
                    })*
                    $($(#[$scheduler_attribute])*
                    (Self::$scheduler(scheduler), Self::$scheduler(from)) => {
                        if let Some(spec) = $scheduler::spec(kind) {
                            scheduler.take_over(from, spec, context, now);
                        }
                    })*
                    // A successor is of the same kind.
                    _ => {}
                }
            }

            /// Decides about the flow, if the component is one at which no flow waits.
            #[inline(always)]
            pub(crate) fn decide(
                &self,
                flow: &EngineFlow<'_, '_>,
                time: &DecisionTime<'_>,
            ) -> Option<DecisionWithSlot> {
                match self {
                    $($(#[$limiter_attribute])*
                    Self::$limiter(limiter) => Some(limiter.decide(flow, time)),)*
                    _ => None,
                }
            }

            /// Like [`decide`](Self::decide), for callers that only need the verdict.
            #[inline(always)]
            pub(crate) fn decide_briefly(
                &self,
                flow: &EngineFlow<'_, '_>,
                time: &DecisionTime<'_>,
            ) -> Option<BriefDecision> {
                match self {
                    $($(#[$limiter_attribute])*
                    Self::$limiter(limiter) => Some(limiter.decide(flow, time).into()),)*
                    _ => None,
                }
            }

            /// Decides about the flow, puts it in a queue, or asks the shared store.
            #[inline(never)]
            pub(crate) fn schedule(
                &self,
                flow: &EngineFlow<'_, '_>,
                time: &DecisionTime<'_>,
            ) -> ScheduleResult {
                match self {
                    $($(#[$limiter_attribute])*
                    Self::$limiter(limiter) => ScheduleResult::Decided(limiter.decide(flow, time)),)*
                    $($(#[$scheduler_attribute])*
                    Self::$scheduler(scheduler) => scheduler.schedule(flow, time),)*
                    $(Self::$shared(limiter) => limiter.ask(flow, time),)*
                }
            }

            /// Continues with the answer of the shared store that the component asked.
            #[inline(never)]
            pub(crate) fn resume(
                &self,
                flow: &EngineFlow<'_, '_>,
                answer: StoreAnswer,
                now: Nanos,
            ) -> ScheduleResult {
                match self {
                    $($(#[$limiter_attribute])*
                    Self::$limiter(limiter) => {
                        ScheduleResult::Decided(limiter.decide(flow, &DecisionTime::at(now)))
                    })*
                    $($(#[$scheduler_attribute])*
                    Self::$scheduler(scheduler) => scheduler.resume(flow, answer, now),)*
                    $(Self::$shared(limiter) => {
                        ScheduleResult::Decided(limiter.resume(flow, answer, now))
                    })*
                }
            }

            /// Returns the component as a scheduler, if it is one.
            pub(crate) fn scheduler(&self) -> Option<&dyn Scheduler> {
                match self {
                    $($(#[$limiter_attribute])* Self::$limiter(_) => None,)*
                    $(Self::$shared(_) => None,)*
                    $($(#[$scheduler_attribute])* Self::$scheduler(scheduler) => Some(scheduler),)*
                }
            }
        }

        impl Deref for Component {
            type Target = dyn PolicyComponent;

            fn deref(&self) -> &Self::Target {
                match self {
                    $($(#[$limiter_attribute])* Self::$limiter(limiter) => limiter,)*
                    $(Self::$shared(limiter) => limiter,)*
                    $($(#[$scheduler_attribute])* Self::$scheduler(scheduler) => scheduler,)*
                }
            }
        }
    };
}

registry! {
    limiters: [
        #[cfg(test)]
        TurnTaker,
        RateLimiter,
        ConcurrencyLimiter,
        AdaptiveLimiter,
        Sampler,
    ],
    shared_limiters: [
        SharedRateLimiter,
        SharedConcurrencyLimiter,
    ],
    schedulers: [
        QuotaScheduler,
        SharedQuotaScheduler,
        ConcurrencyScheduler,
        SharedConcurrencyScheduler,
        LoadScheduler,
    ],
}

#[cfg(test)]
use self::tests::TurnTaker;

impl Component {
    /// Returns the key of the label that the component limits by, if the flow lacks it. Returns
    /// `None` if the component accepts every flow anyway.
    pub(crate) fn missing_label(&self, flow: &EngineFlow<'_, '_>) -> Option<&str> {
        let label = self.required_label_key();
        label.filter(|label| flow.labels.get(label).is_none())
    }

    /// Returns the longest `queue_timeout` of its workloads; 0 if no flow ever queues.
    pub(crate) fn longest_queue_timeout(&self) -> Nanos {
        let scheduler = self.scheduler();
        scheduler.map_or(0, |scheduler| scheduler.workloads().longest_queue_timeout())
    }

    /// Returns the name and the `queue_timeout` of a flow's workload, if it has one.
    pub(crate) fn queue_timeout(&self, flow: &EngineFlow<'_, '_>) -> Option<(&str, Duration)> {
        self.scheduler()?.workloads().queue_timeout(flow)
    }

    /// Returns true if the component measures how long flows take.
    pub(crate) fn times_workloads(&self) -> bool {
        let scheduler = self.scheduler();
        scheduler.is_some_and(|scheduler| scheduler.latency().is_some())
    }
}

/// A circuit drives a component whatever its kind.
impl Actuator for Component {
    fn apply(&self, setting: Setting, now: Nanos) -> bool {
        (**self).apply(setting, now)
    }

    fn take_demand(&self) -> Demand {
        (**self).take_demand()
    }

    fn workload_tokens(&self, now: Nanos) -> Option<WorkloadTokens> {
        (**self).workload_tokens(now)
    }
}

#[cfg(test)]
mod tests;
