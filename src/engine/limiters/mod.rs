//! The components that decide: one file each, all of one shape.
//!
//! A new one is a file and a line in every `match` of [`Component`].

pub(super) mod bucket;
pub(super) mod concurrency_limiter;
pub(super) mod lazy_sync;
pub(super) mod ledger;
pub(super) mod rate_limiter;
mod sampler;
mod sums;

use std::sync::Arc;
use std::time::Duration;

use super::clock::{Clock, Nanos};
use super::report::{LimiterDetails, LimiterReason, TokensInfo};
use super::request_id::RequestId;
use super::schedulers::{
    ConcurrencyScheduler, LoadScheduler, Overtaken, QuotaScheduler, Waiter, Workloads,
};
use super::stages::{Flow, Step};
use super::store::Limits;
use super::ticket::Held;
use crate::policy::ComponentKind;

pub(crate) use self::bucket::Shape;
pub(crate) use self::concurrency_limiter::ConcurrencyLimiter;
pub(crate) use self::rate_limiter::RateLimiter;
pub(crate) use self::sampler::Sampler;

/// Deadlines that are no further away than this are over: an answer would come too late.
pub(super) const DEADLINE_MARGIN: Nanos = 10_000_000;

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

/// What all components of an engine share.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) upstream_ramp_mode: bool,
    pub(crate) upstream_buckets: bool,
    /// Load schedulers and samplers hear of their signals by [`Engine::actuate`] only.
    ///
    /// [`Engine::actuate`]: super::Engine::actuate
    pub(crate) by_hand: bool,
}

/// What a component decided about a flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Decided {
    pub(crate) dropped: bool,
    pub(crate) reason: LimiterReason,
    pub(crate) wait: Nanos,
    /// It would say no however long the flow waited.
    pub(crate) hopeless: bool,
    pub(crate) remaining: f64,
    pub(crate) current: f64,
    pub(crate) consumed: f64,
    pub(crate) request_id: Option<RequestId>,
    /// False when it was let through without asking for a key.
    pub(crate) looked: bool,
    /// How long it waited in a queue.
    pub(crate) queued: Nanos,
    /// What the queue did to its order; `None` without a queue, and for a flow that was dropped.
    pub(crate) overtaken: Option<Overtaken>,
}

impl Decided {
    pub(crate) const fn tokens(&self) -> TokensInfo {
        TokensInfo {
            remaining: self.remaining,
            current: self.current,
            consumed: self.consumed,
        }
    }
}

/// A decision, and the slot that goes with it.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) decided: Decided,
    pub(crate) held: Option<Held>,
}

impl From<Decided> for Settled {
    #[inline(always)]
    fn from(decided: Decided) -> Self {
        Self {
            decided,
            held: None,
        }
    }
}

/// What a scheduler says to a flow.
#[derive(Debug)]
pub(crate) enum Scheduled {
    Settled(Settled),
    Waits(Waiter),
}

impl Component {
    pub(crate) fn new(kind: &ComponentKind, around: &Surroundings) -> Self {
        match kind {
            ComponentKind::RateLimiter(spec) => Self::RateLimiter(RateLimiter::new(spec, around)),
            ComponentKind::ConcurrencyLimiter(spec) => Self::ConcurrencyLimiter(
                ConcurrencyLimiter::new(spec, around.limits, &around.clock),
            ),
            ComponentKind::Sampler(spec) => {
                Self::Sampler(Sampler::new(spec, around.upstream_ramp_mode))
            }
            ComponentKind::QuotaScheduler(spec) => {
                Self::QuotaScheduler(QuotaScheduler::new(spec, around))
            }
            ComponentKind::ConcurrencyScheduler(spec) => {
                Self::ConcurrencyScheduler(ConcurrencyScheduler::new(spec, around))
            }
            ComponentKind::LoadScheduler(spec) => {
                Self::LoadScheduler(LoadScheduler::new(spec, around))
            }
        }
    }

    /// The component of a changed policy with the state of this one; `None` where the state would
    /// mean something else: it is of another kind, or has other keys.
    ///
    /// Nothing changes yet: the policy may still be refused.
    pub(crate) fn successor(&self, kind: &ComponentKind, around: &Surroundings) -> Option<Self> {
        Some(match (self, kind) {
            (Self::RateLimiter(limiter), ComponentKind::RateLimiter(spec)) => {
                Self::RateLimiter(limiter.successor(spec, around)?)
            }
            (Self::ConcurrencyLimiter(limiter), ComponentKind::ConcurrencyLimiter(spec)) => {
                Self::ConcurrencyLimiter(limiter.successor(spec)?)
            }
            (Self::Sampler(sampler), ComponentKind::Sampler(spec)) => {
                Self::Sampler(sampler.successor(spec, around.upstream_ramp_mode))
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

    /// Goes on with the state of `from` by the numbers of its own policy, now that it is in force.
    pub(crate) fn take_over(
        &self,
        from: &Self,
        kind: &ComponentKind,
        around: &Surroundings,
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
                scheduler.take_over(spec, around, now);
            }
            (
                Self::ConcurrencyScheduler(scheduler),
                _,
                ComponentKind::ConcurrencyScheduler(spec),
            ) => scheduler.take_over(spec, now),
            (Self::LoadScheduler(scheduler), _, ComponentKind::LoadScheduler(spec)) => {
                scheduler.take_over(spec, around.by_hand, now);
            }
            // The percentage of a sampler is all its state.
            _ => {}
        }
    }

    #[inline]
    pub(crate) fn step(&self) -> Step {
        match self {
            Self::RateLimiter(_) | Self::ConcurrencyLimiter(_) => Step::Limiters,
            Self::Sampler(sampler) => sampler.step(),
            Self::ConcurrencyScheduler(_) => Step::Concurrency,
            Self::QuotaScheduler(_) | Self::LoadScheduler(_) => Step::Schedulers,
        }
    }

    /// The status code of the policy for flows that are dropped here; 0 is none.
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

    /// Decides at once: a scheduler turns away who would have to wait.
    #[inline(always)]
    pub(crate) fn decide(&self, flow: &Flow<'_, '_>, now: Nanos) -> Settled {
        match self {
            Self::RateLimiter(limiter) => Settled::from(limiter.decide(flow, now)),
            Self::ConcurrencyLimiter(limiter) => {
                let (decided, held) = limiter.decide(flow, now);
                Settled { decided, held }
            }
            Self::Sampler(sampler) => Settled::from(sampler.decide(flow)),
            _ => match self.schedule(flow, now) {
                Scheduled::Settled(settled) => settled,
                Scheduled::Waits(_) => Settled::from(Decided::REFUSED),
            },
        }
    }

    /// Decides, or puts the flow in a queue.
    #[inline(never)]
    pub(crate) fn schedule(&self, flow: &Flow<'_, '_>, now: Nanos) -> Scheduled {
        match self {
            Self::QuotaScheduler(scheduler) => scheduler.schedule(flow, now),
            Self::ConcurrencyScheduler(scheduler) => scheduler.schedule(flow, now),
            Self::LoadScheduler(scheduler) => scheduler.schedule(flow, now),
            Self::RateLimiter(_) | Self::ConcurrencyLimiter(_) | Self::Sampler(_) => {
                Scheduled::Settled(self.decide(flow, now))
            }
        }
    }

    /// Gives back the tokens a flow was granted here that was then dropped elsewhere. Slots are
    /// given back by dropping them.
    pub(crate) fn revert(&self, flow: &Flow<'_, '_>, consumed: f64, now: Nanos) {
        match self {
            Self::RateLimiter(limiter) => limiter.revert(flow, consumed, now),
            Self::QuotaScheduler(scheduler) => scheduler.revert(flow, consumed, now),
            Self::LoadScheduler(scheduler) => scheduler.revert(consumed, now),
            Self::ConcurrencyLimiter(_) | Self::ConcurrencyScheduler(_) | Self::Sampler(_) => {}
        }
    }

    /// The label that it limits by, where the flow has none. `None` where everything passes anyway.
    pub(crate) fn missing_label(&self, flow: &Flow<'_, '_>) -> Option<&str> {
        let label = match self {
            Self::RateLimiter(limiter) => limiter.label_in_use(),
            Self::ConcurrencyLimiter(limiter) => limiter.slots().label_in_use(),
            Self::QuotaScheduler(scheduler) => scheduler.label_in_use(),
            Self::ConcurrencyScheduler(scheduler) => scheduler.slots().label_in_use(),
            Self::LoadScheduler(_) | Self::Sampler(_) => None,
        };
        label.filter(|label| flow.labels.get(label).is_none())
    }

    /// The longest `queue_timeout` of its workloads; 0 where nobody waits.
    pub(crate) fn longest_queue_timeout(&self) -> Nanos {
        self.workloads().map_or(0, Workloads::longest_queue_timeout)
    }

    /// The name and the `queue_timeout` of a flow's workload, where it has one.
    pub(crate) fn queue_timeout(&self, flow: &Flow<'_, '_>) -> Option<(&str, Duration)> {
        self.workloads()?.queue_timeout(flow)
    }

    /// The workloads of a scheduler.
    pub(crate) fn workloads(&self) -> Option<&Workloads> {
        match self {
            Self::QuotaScheduler(scheduler) => Some(scheduler.workloads()),
            Self::ConcurrencyScheduler(scheduler) => Some(scheduler.workloads()),
            Self::LoadScheduler(scheduler) => Some(scheduler.workloads()),
            Self::RateLimiter(_) | Self::ConcurrencyLimiter(_) | Self::Sampler(_) => None,
        }
    }

    /// What a decision looks like to those who ask.
    pub(crate) fn report(&self, flow: &Flow<'_, '_>, decided: &Decided) -> LimiterDetails {
        match self {
            Self::RateLimiter(limiter) => limiter.report(flow, decided),
            Self::ConcurrencyLimiter(limiter) => limiter.report(flow, decided),
            Self::Sampler(sampler) => sampler.report(flow),
            Self::QuotaScheduler(scheduler) => scheduler.report(flow, decided),
            Self::ConcurrencyScheduler(scheduler) => scheduler.report(flow, decided),
            Self::LoadScheduler(scheduler) => scheduler.report(flow, decided),
        }
    }

    /// The buckets as they are now, of what has quotas.
    pub(crate) fn shape(&self) -> Option<Shape> {
        match self {
            Self::RateLimiter(limiter) => Some(limiter.shape()),
            Self::QuotaScheduler(scheduler) => Some(scheduler.shape()),
            _ => None,
        }
    }

    /// It wants to know how long flows take.
    pub(crate) fn times_workloads(&self) -> bool {
        matches!(self, Self::LoadScheduler(scheduler) if scheduler.latency().is_some())
    }

    /// Keys with state.
    pub(crate) fn keys(&self) -> usize {
        match self {
            Self::RateLimiter(limiter) => limiter.keys(),
            Self::ConcurrencyLimiter(limiter) => limiter.keys(),
            Self::QuotaScheduler(scheduler) => scheduler.keys(),
            Self::ConcurrencyScheduler(scheduler) => scheduler.keys(),
            Self::Sampler(_) | Self::LoadScheduler(_) => 0,
        }
    }

    /// Keys whose state had to make room.
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
