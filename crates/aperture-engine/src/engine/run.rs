//! The one way of a flow through the engine, whatever its caller wants to know.

use std::sync::Arc;

use super::cache::{EngineCaches, LookupAsk};
use super::clock::DecisionTime;
use super::collector::Collector;
use super::component_entry::ComponentEntry;
use super::decision::{
    BriefDecision, ComponentDecision, DecisionStep, DecisionWithSlot, EngineDenial, MayWait,
};
use super::engine_flow::EngineFlow;
use super::held_slots::HeldSlots;
use super::schedulers::ScheduleResult;
use super::snapshot::Snapshot;
use super::stages::{self, Observer, StepProgress, Suspended};
use super::{Engine, EngineMode};
use aperture_core::{CacheLookup, ControlPointMemo, FlowParams};

/// What came of a run.
#[derive(Debug)]
pub(super) enum RunEnd {
    Decided(Decided),
    /// A scheduler makes the flow wait. It holds the slots that were granted so far.
    Waits(Box<Suspended>, HeldSlots),
}

/// The end of a run that did not have to wait.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) result: Result<(), EngineDenial>,
    pub(super) held: HeldSlots,
    /// True if the flow was accepted and no component decided about it.
    pub(super) undecided: bool,
}

/// How a run treats a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunOptions<'a, 'p> {
    /// The parameters with the cache keys to look up; `None` to look up nothing.
    pub(super) lookup: Option<&'a FlowParams<'p>>,
    /// The longest wait that the flow accepts.
    pub(super) may_wait: MayWait,
    /// The memo of the flow's control point, if its caller keeps one.
    pub(super) memo: Option<&'a ControlPointMemo>,
}

impl<M: EngineMode> Engine<M> {
    /// Decides about a flow as far as possible without waiting, and returns what `end` makes of the
    /// end. Flows that wait are counted when they are decided.
    ///
    /// Most flows are accepted, and are selected by one component that decides at once, or by none.
    /// Each of these two cases calls `end` itself, so that the result is made in its final place: to
    /// move a ticket costs about as much as to look up a key. All other cases share one call, to
    /// keep the inlined copies of `end` few.
    #[inline(always)]
    pub(super) fn run<C: Collector, R>(
        &self,
        live: &Snapshot,
        flow: &EngineFlow<'_, '_>,
        options: RunOptions<'_, '_>,
        time: &DecisionTime<'_>,
        collector: &mut C,
        end: impl FnOnce(&mut C, RunEnd) -> R,
    ) -> R {
        // The control loops that are due may change what the components decide.
        if live.control.is_on() {
            live.control.catch_up(time.now());
        }
        let run = match *live.index.selectors().matching_by(options.memo, flow) {
            [] => {
                self.note_unselected(live, flow, options.memo, time);
                if !flow.ramp_mode {
                    let hit = self.look_up(flow, options, time, collector);
                    return end(collector, self.decided(Ok(()), HeldSlots::new(), !hit));
                }
                self.decided(Err(EngineDenial::NO_RAMP), HeldSlots::new(), false)
            }
            [only] if live.index.component(only).decides_alone(flow) => 'run: {
                let entry = live.index.component(only);
                let decided = match C::READS_DECISIONS {
                    false => entry.component.decide_briefly(flow, time),
                    true => entry.component.decide(flow, time).map(|decided| {
                        collector.on_decision(flow, entry, &decided.decision);
                        decided.into()
                    }),
                };
                let Some(decided) = decided else {
                    break 'run self.schedule_alone(entry, flow, options, time, collector);
                };
                let BriefDecision {
                    dropped,
                    key_missing,
                    wait,
                    slot,
                } = decided;
                if entry.rejects(dropped) {
                    let denied = entry.denial(wait);
                    break 'run self.decided(Err(denied), HeldSlots::new(), false);
                }
                let decided = entry.has_decided(flow, key_missing);
                let hit = self.look_up(flow, options, time, collector);
                let held = HeldSlots::of(slot);
                return end(collector, self.decided(Ok(()), held, !decided && !hit));
            }
            ref all => self.run_steps(live, all, flow, options, time, collector),
        };
        end(collector, run)
    }

    /// Lets the only component that selects a flow, at which the flow may wait, decide about it. The
    /// caches are looked up before, because a hit spares the wait.
    #[inline(never)]
    fn schedule_alone<C: Collector>(
        &self,
        entry: &Arc<ComponentEntry>,
        flow: &EngineFlow<'_, '_>,
        options: RunOptions<'_, '_>,
        time: &DecisionTime<'_>,
        collector: &mut C,
    ) -> RunEnd {
        let looks_up_first = entry.step == DecisionStep::Schedulers;
        if looks_up_first && self.look_up(flow, options, time, collector) {
            return self.decided(Ok(()), HeldSlots::new(), false);
        }
        let may_wait = options.may_wait;
        let DecisionWithSlot { decision, slot } =
            match stages::schedule(entry, flow, may_wait, time) {
                ScheduleResult::Decided(decided) => decided,
                waits => {
                    let suspended = Suspended::at(entry, waits, may_wait, time);
                    return RunEnd::Waits(Box::new(suspended), HeldSlots::new());
                }
            };
        collector.on_decision(flow, entry, &decision);
        if entry.rejects(decision.dropped) {
            let denied = entry.denial(decision.reported_wait());
            return self.decided(Err(denied), HeldSlots::new(), false);
        }
        let decided = entry.has_decided(flow, decision.key_missing);
        let hit = !looks_up_first && self.look_up(flow, options, time, collector);
        self.decided(Ok(()), HeldSlots::of(slot), !decided && !hit)
    }

    /// Counts the end of a run.
    #[inline(always)]
    fn decided(
        &self,
        result: Result<(), EngineDenial>,
        held: HeldSlots,
        undecided: bool,
    ) -> RunEnd {
        match result.is_ok() {
            true => self.shared.decision_counters.count_accepted(undecided),
            false => self.shared.decision_counters.count_rejected(),
        }
        RunEnd::Decided(Decided {
            result,
            held,
            undecided,
        })
    }

    /// Records the control point of a flow that no component selects, unless its memo says that this
    /// was done.
    #[inline(always)]
    fn note_unselected(
        &self,
        live: &Snapshot,
        flow: &EngineFlow<'_, '_>,
        memo: Option<&ControlPointMemo>,
        time: &DecisionTime<'_>,
    ) {
        let selectors = live.index.selectors();
        if !selectors.is_noted_as_unselected(memo) {
            self.shared.unselected.note(live, flow.control_point, time);
            if !selectors.selects(flow.control_point) {
                selectors.note_as_unselected(memo, live.only_counts_unselected());
            }
        }
    }

    /// Looks up the caches, if the flow asks for it. Returns true if the result cache has the
    /// response.
    #[inline(always)]
    fn look_up(
        &self,
        flow: &EngineFlow<'_, '_>,
        options: RunOptions<'_, '_>,
        time: &DecisionTime<'_>,
        collector: &mut impl Collector,
    ) -> bool {
        let Some(params) = options.lookup else {
            return false;
        };
        look_up(&self.shared.caches, params, flow, time, collector)
    }

    /// Runs a flow through all steps of its components.
    #[inline(never)]
    pub(super) fn run_steps<C: Collector>(
        &self,
        live: &Snapshot,
        matching: &[u32],
        flow: &EngineFlow<'_, '_>,
        options: RunOptions<'_, '_>,
        time: &DecisionTime<'_>,
        collector: &mut C,
    ) -> RunEnd {
        let mut held = HeldSlots::new();
        let lookup = options.lookup;
        let mut observer = RunObserver::new(collector, &self.shared.caches, lookup);
        let progress = stages::run_all(
            &live.index,
            matching,
            time,
            flow,
            options.may_wait,
            &mut observer,
            &mut held,
        );
        let result = match progress {
            StepProgress::Done(result) => result,
            StepProgress::Waits(mut suspended) => {
                suspended.decided |= observer.decided;
                return RunEnd::Waits(suspended, held);
            }
        };
        let undecided = result.is_ok() && !observer.decided;
        self.decided(result, held, undecided)
    }
}

/// Passes what the steps of a run decide and look up to its collector.
pub(super) struct RunObserver<'o, 'p, C> {
    collector: &'o mut C,
    caches: &'o EngineCaches,
    /// The parameters with the cache keys to look up; `None` to look up nothing.
    lookup: Option<&'o FlowParams<'p>>,
    /// True if a component decided, rather than skipped the flow for lack of its label.
    pub(super) decided: bool,
}

impl<'o, 'p, C> RunObserver<'o, 'p, C> {
    pub(super) const fn new(
        collector: &'o mut C,
        caches: &'o EngineCaches,
        lookup: Option<&'o FlowParams<'p>>,
    ) -> Self {
        Self {
            collector,
            caches,
            lookup,
            decided: false,
        }
    }
}

impl<C: Collector> Observer for RunObserver<'_, '_, C> {
    #[inline(always)]
    fn on_decision(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        component: &ComponentEntry,
        decision: &ComponentDecision,
    ) {
        self.decided |= component.has_decided(flow, decision.key_missing);
        self.collector.on_decision(flow, component, decision);
    }

    #[inline(always)]
    fn look_up(&mut self, flow: &EngineFlow<'_, '_>, time: &DecisionTime<'_>) -> bool {
        let Some(params) = self.lookup else {
            return false;
        };
        let hit = look_up(self.caches, params, flow, time, self.collector);
        // A hit decides the flow, because schedulers are skipped then.
        self.decided |= hit;
        hit
    }

    fn start_lookup(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        time: &DecisionTime<'_>,
    ) -> Option<LookupAsk> {
        let (params, caches) = (self.lookup?, self.caches.shared()?);
        let (result_key, global_keys) = keys_of(params);
        let (point, left) = (flow.control_point, flow.time_left);
        Some(caches.start_lookup(point, result_key, global_keys, left, time.now()))
    }

    fn on_lookup(&mut self, found: CacheLookup) -> bool {
        let hit = found.result_value().is_some();
        self.collector.on_lookup(found);
        self.decided |= hit;
        hit
    }
}

/// Looks up the cache keys of a flow, and returns true if the result cache has its response.
#[inline(never)]
fn look_up(
    caches: &EngineCaches,
    params: &FlowParams<'_>,
    flow: &EngineFlow<'_, '_>,
    time: &DecisionTime<'_>,
    collector: &mut impl Collector,
) -> bool {
    let (result_key, global_keys) = keys_of(params);
    let found = caches.look_up(flow.control_point, result_key, global_keys, time.now());
    let hit = found.result_value().is_some();
    collector.on_lookup(found);
    hit
}

/// Returns the keys to look up: that of the result cache, or an empty text, and those of the global
/// cache.
fn keys_of<'a>(params: &'a FlowParams<'_>) -> (&'a str, impl Iterator<Item = &'a str>) {
    let result_key = params.result_cache_key.as_deref().unwrap_or("");
    (
        result_key,
        params.global_cache_keys.iter().map(|key| &**key),
    )
}
