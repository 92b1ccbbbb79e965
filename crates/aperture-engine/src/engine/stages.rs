//! The steps of a decision. All components of a step decide, then the next step begins.

use std::sync::Arc;
use std::task::{Poll, Waker};

use smallvec::SmallVec;

use super::clock::{Clock, Nanos, nanos};
use super::component_entry::ComponentEntry;
use super::decision::{ComponentDecision, DecisionStep, DecisionWithSlot, EngineDenial};
use super::engine_flow::EngineFlow;
use super::held_slots::{HeldSlot, HeldSlots};
use super::index::Index;
use super::schedulers::ScheduleResult;

/// The steps in which no flow waits. They form one batch, which is reverted as a whole.
const IMMEDIATE_STEPS: [DecisionStep; 3] = [
    DecisionStep::Ramps,
    DecisionStep::Samplers,
    DecisionStep::Limiters,
];
/// The steps in which flows may wait. Each is a batch of its own.
const QUEUEING_STEPS: [DecisionStep; 2] = [DecisionStep::Concurrency, DecisionStep::Schedulers];

/// Observes each decision. Nothing is allocated for an observer that ignores them.
pub(crate) trait Observer {
    fn on_decision(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        component: &ComponentEntry,
        decision: &ComponentDecision,
    );

    /// Looks up the caches that the flow asks for; called once per flow, when the steps before
    /// quota and load schedulers have accepted it. Returns true if the result cache has the
    /// response: the flow is then accepted without those schedulers.
    #[inline(always)]
    fn look_up(&mut self, _flow: &EngineFlow<'_, '_>, _clock: &dyn Clock) -> bool {
        false
    }
}

impl Observer for () {
    fn on_decision(&mut self, _: &EngineFlow<'_, '_>, _: &ComponentEntry, _: &ComponentDecision) {}
}

/// How far the decision of a flow has come.
#[derive(Debug)]
pub(crate) enum StepProgress {
    Done(Result<(), EngineDenial>),
    /// A scheduler makes the flow wait.
    Waits(Box<Suspended>),
}

/// Decides about a flow as far as possible without waiting. Adds the slots that it is granted to
/// `held`.
#[inline(always)]
pub(crate) fn run(
    index: &Index,
    clock: &dyn Clock,
    flow: &EngineFlow<'_, '_>,
    observer: &mut impl Observer,
    held: &mut HeldSlots,
) -> StepProgress {
    match *index.matching(flow) {
        [] => {
            if flow.ramp_mode {
                return StepProgress::Done(Err(EngineDenial::NO_RAMP));
            }
            observer.look_up(flow, clock);
            StepProgress::Done(Ok(()))
        }
        [only]
            if !flow.ramp_mode
                && index.component(only).limiter.step() == DecisionStep::Limiters =>
        {
            let now = nanos(clock.now());
            let result = run_single(index.component(only), now, flow, observer, held);
            if result.is_ok() {
                observer.look_up(flow, clock);
            }
            StepProgress::Done(result)
        }
        ref all => run_all(index, all, clock, flow, observer, held),
    }
}

/// Decides about a flow that one limiter selects: it has no other step, and nothing to revert.
#[inline(always)]
fn run_single(
    component: &ComponentEntry,
    now: Nanos,
    flow: &EngineFlow<'_, '_>,
    observer: &mut impl Observer,
    held: &mut HeldSlots,
) -> Result<(), EngineDenial> {
    let DecisionWithSlot { decision, slot } = component.limiter.decide(flow, now);
    observer.on_decision(flow, component, &decision);
    if component.rejects(&decision) {
        let code = component.limiter.denied_code();
        return Err(component.limiter.step().denial(code, decision.wait));
    }
    if let Some(slot) = slot {
        held.push(slot);
    }
    Ok(())
}

#[inline(never)]
fn run_all(
    index: &Index,
    matching: &[u32],
    clock: &dyn Clock,
    flow: &EngineFlow<'_, '_>,
    observer: &mut impl Observer,
    held: &mut HeldSlots,
) -> StepProgress {
    let now = nanos(clock.now());
    if let Err(denied) = run_immediate(index, matching, now, flow, observer, held) {
        return StepProgress::Done(Err(denied));
    }
    let schedulers: SmallVec<[&Arc<ComponentEntry>; 4]> = matching
        .iter()
        .map(|at| index.component(*at))
        .filter(|component| component.limiter.step() >= DecisionStep::Concurrency)
        .collect();
    for (at, step) in QUEUEING_STEPS.into_iter().enumerate() {
        if step == DecisionStep::Schedulers && observer.look_up(flow, clock) {
            break;
        }
        let own = schedulers
            .iter()
            .filter(|component| component.limiter.step() == step);
        let mut round = SchedulerRound::begin(step, own.copied(), flow, now);
        if round.poll_members(now, None).is_pending() {
            let later = schedulers
                .iter()
                .filter(|component| QUEUEING_STEPS[at + 1..].contains(&component.limiter.step()))
                .map(|component| Arc::clone(component))
                .collect();
            return StepProgress::Waits(Box::new(Suspended { round, later }));
        }
        if let Err(denied) = round.finish(flow, observer, held, now) {
            return StepProgress::Done(Err(denied));
        }
    }
    StepProgress::Done(Ok(()))
}

/// Runs the steps in which no flow waits.
fn run_immediate(
    index: &Index,
    matching: &[u32],
    now: Nanos,
    flow: &EngineFlow<'_, '_>,
    observer: &mut impl Observer,
    held: &mut HeldSlots,
) -> Result<(), EngineDenial> {
    let mut granted: GrantedComponents<'_> = SmallVec::with_capacity(matching.len());
    for step in IMMEDIATE_STEPS {
        if step == DecisionStep::Ramps && !flow.ramp_mode {
            continue;
        }
        let mut denied = None;
        let mut wait = 0;
        let mut unsatisfiable = false;
        let mut decisions = 0;
        for &at in matching {
            let component = index.component(at);
            if component.limiter.step() != step {
                continue;
            }
            let DecisionWithSlot { decision, slot } = component.limiter.decide(flow, now);
            observer.on_decision(flow, component, &decision);
            decisions += 1;
            if component.rejects(&decision) {
                denied = Some(component.limiter.denied_code());
                unsatisfiable |= decision.unsatisfiable;
            } else if decision.dropped {
                continue;
            } else {
                granted.push((component, decision, slot));
            }
            wait = decision.wait.max(wait);
        }
        if let Some(code) = denied {
            revert(granted, flow, now);
            // Report no wait if one of the components would reject the flow even after it.
            return Err(step.denial(code, if unsatisfiable { 0 } else { wait }));
        }
        if step == DecisionStep::Ramps && decisions == 0 {
            return Err(EngineDenial::NO_RAMP);
        }
    }
    held.extend(granted.into_iter().filter_map(|(_, _, slot)| slot));
    Ok(())
}

type GrantedComponents<'a> =
    SmallVec<[(&'a ComponentEntry, ComponentDecision, Option<HeldSlot>); 4]>;

/// Returns what a batch granted before one of its components rejected the flow. Slots are returned
/// by dropping them.
fn revert(granted: GrantedComponents<'_>, flow: &EngineFlow<'_, '_>, now: Nanos) {
    for (component, decision, slot) in granted {
        if !decision.key_missing && decision.consumed > 0.0 {
            component.limiter.revert(flow, decision.consumed, now);
        }
        drop(slot);
    }
}

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
    fn begin<'a>(
        step: DecisionStep,
        members: impl Iterator<Item = &'a Arc<ComponentEntry>>,
        flow: &EngineFlow<'_, '_>,
        now: Nanos,
    ) -> Self {
        let members = members.map(|component| {
            component.check_budget(flow);
            let scheduled = match component.limiter.schedule(flow, now) {
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
    fn finish(
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
                denied = Some(component.limiter.denied_code());
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
