//! A flow that waits in a round of its components, or for its lookup in shared caches.

use std::sync::Arc;
use std::task::{Poll, Waker};

use smallvec::SmallVec;

use super::WAITING_STEPS;
use super::granted::{GrantedComponents, revert};
use super::observer::Observer;
use super::round::SchedulerRound;
use crate::engine::cache::LookupAsk;
use crate::engine::clock::{DecisionTime, Nanos};
use crate::engine::component_entry::ComponentEntry;
use crate::engine::decision::{DecisionStep, EngineDenial, MayWait};
use crate::engine::engine_flow::EngineFlow;
use crate::engine::held_slots::HeldSlots;
use crate::engine::schedulers::ScheduleResult;

/// A waiting flow: the round that it waits in, the components of later steps, and its lookup in
/// shared caches.
#[derive(Debug)]
pub(crate) struct Suspended {
    round: SchedulerRound,
    later: SmallVec<[Arc<ComponentEntry>; 2]>,
    /// The lookup under way. `None` without one, and once its results were taken.
    lookup: Option<LookupAsk>,
    /// True while the flow waits for the lookup, and in no round.
    awaits_lookup: bool,
    /// True if the flow waits for no component any more.
    given_up: bool,
    /// True if a component decided about the flow, or makes it wait.
    pub(crate) decided: bool,
}

impl Suspended {
    /// Returns a flow that waits for its only component.
    pub(crate) fn at(
        component: &Arc<ComponentEntry>,
        scheduled: ScheduleResult,
        may_wait: MayWait,
        time: &DecisionTime<'_>,
    ) -> Self {
        let round = SchedulerRound {
            step: component.step,
            begun: time.now(),
            may_wait,
            members: SmallVec::from_iter([(Arc::clone(component), scheduled)]),
        };
        Self::in_round(round, SmallVec::new(), None)
    }

    /// Returns a flow that waits in a round.
    pub(super) fn in_round(
        round: SchedulerRound,
        later: SmallVec<[Arc<ComponentEntry>; 2]>,
        lookup: Option<LookupAsk>,
    ) -> Self {
        Self {
            round,
            later,
            lookup,
            awaits_lookup: false,
            given_up: false,
            decided: true,
        }
    }

    /// Returns a flow that waits for its lookup, before the last step.
    pub(super) fn for_lookup(
        later: SmallVec<[Arc<ComponentEntry>; 2]>,
        lookup: Option<LookupAsk>,
        may_wait: MayWait,
        time: &DecisionTime<'_>,
    ) -> Self {
        let round = SchedulerRound {
            step: DecisionStep::Concurrency,
            begun: time.now(),
            may_wait,
            members: SmallVec::new(),
        };
        Self {
            awaits_lookup: true,
            decided: false,
            ..Self::in_round(round, later, lookup)
        }
    }

    /// Polls what the flow waits for.
    pub(crate) fn poll(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        now: Nanos,
        waker: &Waker,
    ) -> Poll<()> {
        match &self.lookup {
            Some(lookup) if self.awaits_lookup => match lookup.is_over(now, Some(waker)) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            },
            _ => self.round.poll_members(flow, now, Some(waker)),
        }
    }

    /// Returns when the flow has to be polled again if it is not woken before.
    pub(crate) fn next_poll_at(&self) -> Nanos {
        match &self.lookup {
            Some(lookup) if self.awaits_lookup => lookup.decide_at(),
            _ => self.round.next_poll_at(),
        }
    }

    /// Continues with the steps after a round that is over. Returns `Some` at the end of the
    /// decision.
    pub(crate) fn resume(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        observer: &mut impl Observer,
        held: &mut HeldSlots,
        time: &DecisionTime<'_>,
    ) -> Option<Result<(), EngineDenial>> {
        if let Err(denied) = self.round.finish(flow, observer, held, time) {
            return Some(Err(denied));
        }
        let done = self.round.step;
        for step in WAITING_STEPS.into_iter().filter(|step| *step > done) {
            if step == DecisionStep::Schedulers {
                match look_up(&mut self.lookup, flow, observer, time) {
                    Some(true) => return Some(Ok(())),
                    Some(false) => self.awaits_lookup = false,
                    None => {
                        self.awaits_lookup = true;
                        return None;
                    }
                }
            }
            let (own, later): (SmallVec<[_; 2]>, _) = std::mem::take(&mut self.later)
                .into_iter()
                .partition(|component| component.step == step);
            self.later = later;
            if !own.is_empty() {
                let may_wait = self.round.may_wait;
                self.round = SchedulerRound::begin(step, own.iter(), flow, may_wait, time);
                if self.given_up {
                    self.round.reject_waiting();
                }
                return None;
            }
        }
        Some(Ok(()))
    }

    /// Returns true if no component of the round is left to decide.
    pub(crate) fn is_finished(&self) -> bool {
        self.round.members.is_empty()
    }

    /// Rejects the flow if it waits for a component, or would have to wait for one after its lookup,
    /// which ends at the next poll.
    pub(crate) fn give_up(&mut self) {
        self.given_up = true;
        self.round.reject_waiting();
        if let Some(lookup) = &mut self.lookup {
            lookup.give_up();
        }
    }

    /// Stops waiting, because no timer can be set: rejects flows in queues, and decides without the
    /// shared store where its reply is missing.
    pub(crate) fn stop_waiting(&mut self, flow: &EngineFlow<'_, '_>, now: Nanos) {
        match &mut self.lookup {
            Some(lookup) if self.awaits_lookup => lookup.give_up(),
            _ => self.round.stop_waiting(flow, now),
        }
    }

    /// Rejects the flow because it leaves, and returns what other components granted already.
    #[cold]
    pub(crate) fn abandon(&mut self, flow: &EngineFlow<'_, '_>, now: Nanos) {
        self.round.reject_waiting();
        let members = std::mem::take(&mut self.round.members);
        let mut granted: GrantedComponents<'_> = SmallVec::new();
        for (component, scheduled) in &members {
            if let ScheduleResult::Decided(decided) = scheduled
                && !component.rejects(decided.decision.dropped)
                && !decided.decision.dropped
            {
                granted.push((component, decided.decision, None));
            }
        }
        revert(granted, flow, &DecisionTime::at(now));
    }
}

/// Looks up the caches before the last step. Returns true if the result cache has the response, and
/// `None` if the shared store has not replied yet.
#[inline(always)]
pub(super) fn look_up(
    lookup: &mut Option<LookupAsk>,
    flow: &EngineFlow<'_, '_>,
    observer: &mut impl Observer,
    time: &DecisionTime<'_>,
) -> Option<bool> {
    match lookup.take() {
        None => Some(observer.look_up(flow, time)),
        Some(ask) if ask.is_over(time.now(), None) => Some(observer.on_lookup(ask.finish())),
        waits => {
            *lookup = waits;
            None
        }
    }
}
