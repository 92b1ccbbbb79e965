//! The schedulers of a step, which decide at the same time, and a flow that waits for them.

use std::sync::Arc;
use std::task::{Poll, Waker};

use smallvec::SmallVec;

use super::granted::{GrantedComponents, revert};
use super::observer::Observer;
use crate::engine::clock::{Clock, Nanos, nanos};
use crate::engine::component_entry::ComponentEntry;
use crate::engine::decision::{ComponentDecision, DecisionStep, DecisionWithSlot, EngineDenial};
use crate::engine::engine_flow::EngineFlow;
use crate::engine::held_slots::HeldSlots;
use crate::engine::schedulers::ScheduleResult;

/// A waiting flow: the round of schedulers that it waits in, and the schedulers of later steps.
#[derive(Debug)]
pub(crate) struct Suspended {
    pub(crate) round: SchedulerRound,
    pub(crate) later: SmallVec<[Arc<ComponentEntry>; 2]>,
}

impl Suspended {
    /// Continues with the steps after a round that is over. Returns `Some` at the end of the
    /// decision.
    pub(crate) fn resume(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        observer: &mut impl Observer,
        held: &mut HeldSlots,
        clock: &dyn Clock,
    ) -> Option<Result<(), EngineDenial>> {
        let now = nanos(clock.now());
        if let Err(denied) = self.round.finish(flow, observer, held, now) {
            return Some(Err(denied));
        }
        if self.round.step == DecisionStep::Schedulers || observer.look_up(flow, clock) {
            return Some(Ok(()));
        }
        let later = std::mem::take(&mut self.later);
        self.round = SchedulerRound::begin(DecisionStep::Schedulers, later.iter(), flow, now);
        None
    }
}

impl Suspended {
    /// Returns true if no scheduler is left to decide.
    pub(crate) fn is_finished(&self) -> bool {
        self.round.members.is_empty()
    }

    /// Rejects the flow because it leaves, and returns what other schedulers granted already.
    #[cold]
    pub(crate) fn abandon(&mut self, flow: &EngineFlow<'_, '_>, now: Nanos) {
        self.round.reject_waiting();
        let _ = self.round.finish(flow, &mut (), &mut HeldSlots::new(), now);
    }
}

/// The schedulers of a step, which decide at the same time.
#[derive(Debug)]
pub(crate) struct SchedulerRound {
    step: DecisionStep,
    begun: Nanos,
    members: SmallVec<[(Arc<ComponentEntry>, ScheduleResult); 1]>,
}

impl SchedulerRound {
    pub(super) fn begin<'a>(
        step: DecisionStep,
        members: impl Iterator<Item = &'a Arc<ComponentEntry>>,
        flow: &EngineFlow<'_, '_>,
        now: Nanos,
    ) -> Self {
        let members = members.map(|component| {
            component.check_budget(flow);
            let scheduled = match component.component.schedule(flow, now) {
                // No flow waits for a component that is not enforced.
                ScheduleResult::Queued(waiter) if component.is_dry_run() => {
                    drop(waiter);
                    ScheduleResult::Decided(DecisionWithSlot::from(ComponentDecision::REJECTED))
                }
                scheduled => scheduled,
            };
            (Arc::clone(component), scheduled)
        });
        Self {
            step,
            begun: now,
            members: members.collect(),
        }
    }

    /// Polls the waiters. The first rejection makes the others leave.
    ///
    /// Without a waker, the waiters are not polled, and no wake-up is registered.
    pub(crate) fn poll_members(&mut self, now: Nanos, waker: Option<&Waker>) -> Poll<()> {
        let mut waits = false;
        let mut dropped = false;
        for (component, scheduled) in &mut self.members {
            if let (ScheduleResult::Queued(waiter), Some(waker)) = (&mut *scheduled, waker)
                && let Poll::Ready(mut decided) = waiter.poll(now, waker)
            {
                decided.decision.queued = now.saturating_sub(self.begun);
                *scheduled = ScheduleResult::Decided(decided);
            }
            match scheduled {
                ScheduleResult::Decided(decided) => {
                    dropped |= decided.decision.dropped && !component.is_dry_run();
                }
                ScheduleResult::Queued(_) => waits = true,
            }
        }
        if waits && dropped {
            self.reject_waiting();
            waits = false;
        }
        if waits {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Makes all remaining waiters leave and counts them as rejected.
    pub(crate) fn reject_waiting(&mut self) {
        for (_, scheduled) in &mut self.members {
            if let ScheduleResult::Queued(_) = scheduled {
                *scheduled =
                    ScheduleResult::Decided(DecisionWithSlot::from(ComponentDecision::REJECTED));
            }
        }
    }

    /// Returns when a waiter has to be polled again if it is not woken before.
    pub(crate) fn next_poll_at(&self) -> Nanos {
        let times = self.members.iter().map(|(_, scheduled)| match scheduled {
            ScheduleResult::Decided(_) => Nanos::MAX,
            ScheduleResult::Queued(waiter) => waiter.next_poll_at(),
        });
        times.min().unwrap_or(Nanos::MAX)
    }

    /// Ends the step.
    pub(super) fn finish(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        observer: &mut impl Observer,
        held: &mut HeldSlots,
        now: Nanos,
    ) -> Result<(), EngineDenial> {
        let members = std::mem::take(&mut self.members);
        let mut denied = None;
        let (components, decided): (
            SmallVec<[Arc<ComponentEntry>; 1]>,
            SmallVec<[DecisionWithSlot; 1]>,
        ) = members
            .into_iter()
            .map(|(component, scheduled)| match scheduled {
                ScheduleResult::Decided(decided) => (component, decided),
                ScheduleResult::Queued(_) => (
                    component,
                    DecisionWithSlot::from(ComponentDecision::REJECTED),
                ),
            })
            .unzip();
        let mut granted: GrantedComponents<'_> = SmallVec::with_capacity(components.len());
        for (component, decided) in components.iter().zip(decided) {
            observer.on_decision(flow, component, &decided.decision);
            if component.rejects(&decided.decision) {
                denied = Some(component.component.denied_code());
            } else if !decided.decision.dropped {
                granted.push((component, decided.decision, decided.slot));
            }
        }
        if let Some(code) = denied {
            revert(granted, flow, now);
            return Err(self.step.denial(code, 0));
        }
        held.extend(granted.into_iter().filter_map(|(_, _, slot)| slot));
        Ok(())
    }
}
