//! Decisions for callers that need the full report.

use super::cache::CacheLookupStage;
use super::clock::nanos;
use super::collector::Collector;
use super::decision::EngineDenial;
use super::engine_flow::EngineFlow;
use super::flow_timer::FlowTimer;
use super::held_slots::HeldSlots;
use super::pending::{OwnedFlow, ReportParts, WaitingFlow};
use super::snapshot::Snapshot;
use super::stages::{self, Observer, StepProgress, Suspended};
use super::ticket::TicketExtras;
use super::undecided::DecisionTracker;
use super::{CheckInput, CheckReport, Engine, EngineShared, EngineTicket, PendingReport};

impl Engine {
    /// Decides about a flow at once and returns the full report. A scheduler rejects the flow if it
    /// would have to wait; [`start`](Self::start) lets it wait.
    ///
    /// Slots of concurrency limiters and schedulers are held until they are passed to
    /// [`flow_end`](Self::flow_end), or until they expire.
    #[must_use]
    pub fn check(&self, input: &CheckInput<'_, '_>) -> CheckReport {
        let flow = input.flow();
        let live = self.shared.live.load();
        let meters = live.matched(&flow);
        let mut collector = self.collector(input);
        let mut held = HeldSlots::new();
        let (progress, undecided) = self.run(&live, &flow, &mut collector, &mut held);
        let denied = match progress {
            StepProgress::Done(result) => result.err(),
            StepProgress::Waits(suspended) => {
                let result =
                    self.finish_without_waiting(*suspended, &flow, &mut collector, &mut held);
                result.err()
            }
        };
        EngineTicket::new(held).leave_open();
        let mut report = collector.report(&flow, &meters, denied, input.expect_end);
        report.undecided = undecided;
        report
    }

    fn collector<'a, 'p>(&'a self, input: &CheckInput<'a, 'p>) -> Collector<'a, 'p> {
        Collector {
            decisions: Some(Vec::new()),
            quotas: input.params.quotas.then(Vec::new),
            lookup_stage: input
                .cache_lookup
                .then(|| CacheLookupStage::new(&self.shared.caches, input.params)),
        }
    }

    /// Decides about a flow, which may have to wait, and returns a future of the full report.
    ///
    /// The flow is in its queues when this returns. The future only delivers the report; dropping
    /// it leaves the queues. The ticket holds the slots that the flow was granted.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_aperture::engine::{CheckInput, Engine};
    /// use tower_aperture::FlowParams;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let engine = Engine::builder()
    ///     .policy_text("one-at-a-time", "
    /// circuit:
    ///   components:
    ///   - flow_control:
    ///       concurrency_scheduler:
    ///         selectors: [{control_point: render}]
    ///         in_ports: {max_concurrency: {constant_signal: {value: 1}}}
    ///         concurrency_limiter: {max_inflight_duration: 60s}
    ///         scheduler: {default_workload_parameters: {queue_timeout: 5s}}
    /// ")
    ///     .build()?;
    /// let params = FlowParams::new();
    /// let (first, ticket) = engine.start(&CheckInput::new("render", &params)).await;
    /// assert!(first.accepted());
    ///
    /// let second = engine.start(&CheckInput::new("render", &params));
    /// drop(ticket);
    /// assert!(second.await.0.accepted());
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// # }).unwrap();
    /// ```
    pub fn start(&self, input: &CheckInput<'_, '_>) -> PendingReport {
        let flow = input.flow();
        let live = self.shared.live.load();
        let meters = live.matched(&flow);
        let mut collector = self.collector(input);
        let mut held = HeldSlots::new();
        let (progress, undecided) = self.run(&live, &flow, &mut collector, &mut held);
        let progress = match progress {
            StepProgress::Waits(suspended) if input.params.shadow => StepProgress::Done(
                self.finish_without_waiting(*suspended, &flow, &mut collector, &mut held),
            ),
            progress => progress,
        };
        match progress {
            StepProgress::Done(result) => {
                // The cache lookup is part of the report.
                let extras = TicketExtras {
                    quotas: collector.quotas.take().unwrap_or_default(),
                    ..TicketExtras::default()
                };
                let mut report = collector.report(&flow, &meters, result.err(), input.expect_end);
                report.undecided = undecided;
                let flow_timer = FlowTimer::begin(self, meters);
                let ticket = EngineTicket::new(held).with_flow_timer(flow_timer);
                PendingReport::done(report, ticket.with_extras(extras))
            }
            StepProgress::Waits(suspended) => {
                let Collector {
                    decisions,
                    quotas,
                    lookup_stage,
                } = collector;
                let parts = ReportParts {
                    decisions,
                    looks_up: input.cache_lookup,
                    found: lookup_stage.and_then(|lookup_stage| lookup_stage.found),
                    quotas,
                };
                let flow = OwnedFlow::new(&flow, input.params, &*self.shared.clock);
                let waiting = WaitingFlow::new(self, flow, *suspended, held, parts, meters);
                PendingReport::waits(waiting, input.expect_end)
            }
        }
    }

    /// Decides about a flow that must not wait: schedulers reject it if it would have to.
    pub(super) fn finish_without_waiting(
        &self,
        mut suspended: Suspended,
        flow: &EngineFlow<'_, '_>,
        observer: &mut impl Observer,
        held: &mut HeldSlots,
    ) -> Result<(), EngineDenial> {
        let mut tracker = DecisionTracker::new(observer);
        let result = loop {
            // Reject at once, so that no round waits.
            suspended.round.reject_waiting();
            if let Some(result) = suspended.resume(flow, &mut tracker, held, &*self.shared.clock) {
                break result;
            }
        };
        self.shared.decision_counters.count(result.is_ok());
        result
    }

    /// Runs the control loops that are due, because they may change what the components decide.
    #[inline(always)]
    pub(super) fn tick_loops(&self, live: &Snapshot) {
        if live.control.is_on() {
            live.control.catch_up(nanos(self.shared.clock.now()));
        }
    }

    /// Decides about a flow as far as possible without waiting. The flag is true if the flow was
    /// accepted and no component decided about it. Flows that wait are counted when they are
    /// decided.
    pub(super) fn run(
        &self,
        live: &Snapshot,
        flow: &EngineFlow<'_, '_>,
        observer: &mut impl Observer,
        held: &mut HeldSlots,
    ) -> (StepProgress, bool) {
        let EngineShared {
            clock,
            decision_counters,
            ..
        } = &*self.shared;
        self.tick_loops(live);
        let mut tracker = DecisionTracker::new(observer);
        let progress = stages::run(&live.index, &**clock, flow, &mut tracker, held);
        let mut undecided = false;
        if let StepProgress::Done(result) = &progress {
            decision_counters.count(result.is_ok());
            undecided = result.is_ok() && !tracker.decided;
        }
        if undecided {
            decision_counters.count_undecided();
        }
        if !tracker.selected {
            self.shared.unselected.note(live, flow.control_point);
        }
        (progress, undecided)
    }
}
