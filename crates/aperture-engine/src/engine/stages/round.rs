//! The components of a step in which flows may wait, which decide at the same time.

use std::sync::Arc;
use std::task::{Poll, Waker};

use smallvec::SmallVec;

use super::granted::{GrantedComponents, revert};
use super::observer::Observer;
use crate::engine::clock::{DecisionTime, Nanos};
use crate::engine::component_entry::ComponentEntry;
use crate::engine::decision::{
    ComponentDecision, DecisionStep, DecisionWithSlot, EngineDenial, MayWait,
};
use crate::engine::engine_flow::EngineFlow;
use crate::engine::held_slots::HeldSlots;
use crate::engine::schedulers::ScheduleResult;

/// The components of a step, which decide at the same time.
#[derive(Debug)]
pub(crate) struct SchedulerRound {
    pub(super) step: DecisionStep,
    pub(super) begun: Nanos,
    pub(super) may_wait: MayWait,
    pub(super) members: SmallVec<[(Arc<ComponentEntry>, ScheduleResult); 1]>,
}

impl SchedulerRound {
    pub(super) fn begin<'a>(
        step: DecisionStep,
        members: impl Iterator<Item = &'a Arc<ComponentEntry>>,
        flow: &EngineFlow<'_, '_>,
        may_wait: MayWait,
        time: &DecisionTime<'_>,
    ) -> Self {
        // All members ask a shared store here, one after the other, so that they share a round trip.
        let members = members.map(|component| {
            let scheduled = schedule(component, flow, may_wait, time);
            (Arc::clone(component), scheduled)
        });
        Self {
            step,
            may_wait,
            members: members.collect(),
            begun: time.now(),
        }
    }

    /// Polls the waiters. In a step with queues, the first rejection makes the others leave.
    ///
    /// Without a waker, the waiters are not polled, and no wake-up is registered.
    pub(super) fn poll_members(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        now: Nanos,
        waker: Option<&Waker>,
    ) -> Poll<()> {
        let mut waits = false;
        let mut dropped = false;
        for (component, scheduled) in &mut self.members {
            if let (ScheduleResult::Asks(ask), Some(waker)) = (&mut *scheduled, waker)
                && let Poll::Ready(answer) = ask.poll(now, waker)
            {
                let may_wait = may_wait_for(component, self.may_wait);
                let scheduler = &component.component;
                *scheduled = leave_if_not(may_wait, scheduler.resume(flow, answer, now));
            }
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
                ScheduleResult::Queued(_) | ScheduleResult::Asks(_) => waits = true,
            }
        }
        // Limiters do not queue: their replies are on the way, and tell the longest wait.
        if waits && dropped && self.step != DecisionStep::SharedLimiters {
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
    pub(super) fn reject_waiting(&mut self) {
        for (_, scheduled) in &mut self.members {
            if let ScheduleResult::Queued(_) | ScheduleResult::Asks(_) = scheduled {
                *scheduled = rejected();
            }
        }
    }

    /// Stops waiting, because no timer can be set: rejects flows in queues, and decides without the
    /// shared store where its reply is missing.
    pub(super) fn stop_waiting(&mut self, flow: &EngineFlow<'_, '_>, now: Nanos) {
        for (component, scheduled) in &mut self.members {
            if let ScheduleResult::Asks(ask) = scheduled {
                let answer = ask.give_up();
                *scheduled = component.component.resume(flow, answer, now);
            }
        }
        self.reject_waiting();
    }

    /// Returns when a waiter has to be polled again if it is not woken before.
    pub(super) fn next_poll_at(&self) -> Nanos {
        let times = self.members.iter().map(|(_, scheduled)| match scheduled {
            ScheduleResult::Decided(_) => Nanos::MAX,
            ScheduleResult::Queued(waiter) => waiter.next_poll_at(),
            ScheduleResult::Asks(ask) => ask.decide_at(),
        });
        times.min().unwrap_or(Nanos::MAX)
    }

    /// Ends the step.
    pub(super) fn finish(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        observer: &mut impl Observer,
        held: &mut HeldSlots,
        time: &DecisionTime<'_>,
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
                ScheduleResult::Queued(_) | ScheduleResult::Asks(_) => (
                    component,
                    DecisionWithSlot::from(ComponentDecision::REJECTED),
                ),
            })
            .unzip();
        let mut granted: GrantedComponents<'_> = SmallVec::with_capacity(components.len());
        let mut wait = 0;
        let mut unsatisfiable = false;
        for (component, decided) in components.iter().zip(decided) {
            observer.on_decision(flow, component, &decided.decision);
            if component.rejects(decided.decision.dropped) {
                denied = Some(component.component.denied_code());
                unsatisfiable |= decided.decision.unsatisfiable;
                wait = decided.decision.wait.max(wait);
            } else if !decided.decision.dropped {
                granted.push((component, decided.decision, decided.slot));
            }
        }
        if let Some(code) = denied {
            revert(granted, flow, time);
            // Report no wait if one of the components would reject the flow even after it.
            return Err(self.step.denial(code, if unsatisfiable { 0 } else { wait }));
        }
        held.extend(granted.into_iter().filter_map(|(_, _, slot)| slot));
        Ok(())
    }
}

/// Lets a component of a step in which flows may wait decide about a flow.
#[inline(always)]
pub(crate) fn schedule(
    component: &ComponentEntry,
    flow: &EngineFlow<'_, '_>,
    may_wait: MayWait,
    time: &DecisionTime<'_>,
) -> ScheduleResult {
    component.check_budget(flow);
    let may_wait = may_wait_for(component, may_wait);
    leave_if_not(may_wait, component.component.schedule(flow, time))
}

/// Returns what a flow may wait for at a component: for no queue of one that is not enforced.
#[inline(always)]
fn may_wait_for(component: &ComponentEntry, may_wait: MayWait) -> MayWait {
    match component.is_dry_run() {
        true => MayWait::ForStore,
        false => may_wait,
    }
}

/// Makes a flow leave a queue that it may not wait in.
#[inline(always)]
fn leave_if_not(may_wait: MayWait, scheduled: ScheduleResult) -> ScheduleResult {
    match scheduled {
        ScheduleResult::Queued(_) if may_wait == MayWait::ForStore => rejected(),
        scheduled => scheduled,
    }
}

fn rejected() -> ScheduleResult {
    ScheduleResult::Decided(DecisionWithSlot::from(ComponentDecision::REJECTED))
}
