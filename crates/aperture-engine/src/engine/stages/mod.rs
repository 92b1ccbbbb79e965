//! The steps of a decision. All components of a step decide, then the next step begins.

mod granted;
mod observer;
mod round;
mod suspended;

use std::sync::Arc;

use smallvec::SmallVec;

use self::granted::{GrantedComponents, revert};
pub(crate) use self::observer::Observer;
use self::round::SchedulerRound;
pub(crate) use self::round::schedule;
pub(crate) use self::suspended::Suspended;
use super::clock::DecisionTime;
use super::component_entry::ComponentEntry;
use super::decision::{DecisionStep, DecisionWithSlot, EngineDenial, MayWait};
use super::engine_flow::EngineFlow;
use super::held_slots::HeldSlots;
use super::index::Index;

/// The steps in which no flow waits. They form one batch, which is reverted as a whole.
const IMMEDIATE_STEPS: [DecisionStep; 3] = [
    DecisionStep::Ramps,
    DecisionStep::Samplers,
    DecisionStep::Limiters,
];
/// The steps in which flows may wait. Each is a batch of its own.
const WAITING_STEPS: [DecisionStep; 3] = [
    DecisionStep::SharedLimiters,
    DecisionStep::Concurrency,
    DecisionStep::Schedulers,
];

/// How far the decision of a flow has come.
#[derive(Debug)]
pub(crate) enum StepProgress {
    Done(Result<(), EngineDenial>),
    /// A scheduler makes the flow wait.
    Waits(Box<Suspended>),
}

/// Decides about a flow as far as possible without waiting. Adds the slots that it is granted to
/// `held`.
#[inline(never)]
pub(crate) fn run_all(
    index: &Index,
    matching: &[u32],
    time: &DecisionTime<'_>,
    flow: &EngineFlow<'_, '_>,
    may_wait: MayWait,
    observer: &mut impl Observer,
    held: &mut HeldSlots,
) -> StepProgress {
    if let Err(denied) = run_immediate(index, matching, time, flow, observer, held) {
        return StepProgress::Done(Err(denied));
    }
    let waiting: SmallVec<[&Arc<ComponentEntry>; 4]> = matching
        .iter()
        .map(|at| index.component(*at))
        .filter(|component| component.step >= DecisionStep::SharedLimiters)
        .collect();
    let mut lookup = observer.start_lookup(flow, time);
    for step in WAITING_STEPS {
        if step == DecisionStep::Schedulers {
            match suspended::look_up(&mut lookup, flow, observer, time) {
                Some(true) => break,
                Some(false) => {}
                None => {
                    let later = later_than(DecisionStep::Concurrency, &waiting);
                    return StepProgress::Waits(Box::new(Suspended::for_lookup(
                        later, lookup, may_wait, time,
                    )));
                }
            }
        }
        let mut own = waiting
            .iter()
            .filter(|component| component.step == step)
            .peekable();
        if own.peek().is_none() {
            continue;
        }
        let mut round = SchedulerRound::begin(step, own.copied(), flow, may_wait, time);
        if round.poll_members(flow, time.now(), None).is_pending() {
            let later = later_than(step, &waiting);
            return StepProgress::Waits(Box::new(Suspended::in_round(round, later, lookup)));
        }
        if let Err(denied) = round.finish(flow, observer, held, time) {
            return StepProgress::Done(Err(denied));
        }
    }
    StepProgress::Done(Ok(()))
}

/// Returns the components of the steps after this one.
fn later_than(
    step: DecisionStep,
    waiting: &[&Arc<ComponentEntry>],
) -> SmallVec<[Arc<ComponentEntry>; 2]> {
    let later = waiting.iter().filter(|component| component.step > step);
    later.map(|component| Arc::clone(component)).collect()
}

/// Runs the steps in which no flow waits.
fn run_immediate(
    index: &Index,
    matching: &[u32],
    time: &DecisionTime<'_>,
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
            if component.step != step {
                continue;
            }
            let decided = component.component.decide(flow, time);
            // The components of these steps decide at once.
            let Some(DecisionWithSlot { decision, slot }) = decided else {
                continue;
            };
            observer.on_decision(flow, component, &decision);
            decisions += 1;
            if component.rejects(decision.dropped) {
                denied = Some(component.component.denied_code());
                unsatisfiable |= decision.unsatisfiable;
            } else if decision.dropped {
                continue;
            } else {
                granted.push((component, decision, slot));
            }
            wait = decision.wait.max(wait);
        }
        if let Some(code) = denied {
            revert(granted, flow, time);
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
