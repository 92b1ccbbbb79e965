//! Deciding for those who want to know all there is to tell.

use super::cache::CacheLookupStage;
use super::clock::nanos;
use super::flux_meter::Metered;
use super::pending::{Notes, OwnedFlow, Waiting};
use super::report::Collector;
use super::snapshot::Snapshot;
use super::stages::{self, Denied, Flow, Halt, Observer, Progress};
use super::ticket::{Slots, Told};
use super::undecided::DecisionTracker;
use super::{CheckInput, CheckReport, Engine, EngineShared, EngineTicket, Starting};

impl Engine {
    /// Decides a flow at once and tells all there is to tell. A scheduler turns the flow away when
    /// it would have to wait; [`start`](Self::start) lets it wait.
    ///
    /// Slots of concurrency limiters and schedulers are held until [`flow_end`](Self::flow_end)
    /// names them, or until they expire.
    #[must_use]
    pub fn check(&self, input: &CheckInput<'_, '_>) -> CheckReport {
        let flow = input.flow();
        let live = self.shared.live.load();
        let meters = live.matched(&flow);
        let mut collector = self.collector(input);
        let mut held = Slots::new();
        let (progress, undecided) = self.run(&live, &flow, &mut collector, &mut held);
        let denied = match progress {
            Progress::Done(result) => result.err(),
            Progress::Waits(halt) => {
                let result = self.wait_for_nothing(*halt, &flow, &mut collector, &mut held);
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

    /// Decides a flow, which may have to wait, and tells all there is to tell.
    ///
    /// The flow is in its queues when this returns; the future is only needed for the answer, and
    /// leaves them when it is dropped. The ticket holds the slots that the flow was granted.
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
    pub fn start(&self, input: &CheckInput<'_, '_>) -> Starting {
        let flow = input.flow();
        let live = self.shared.live.load();
        let meters = live.matched(&flow);
        let mut collector = self.collector(input);
        let mut held = Slots::new();
        let (progress, undecided) = self.run(&live, &flow, &mut collector, &mut held);
        let progress = match progress {
            Progress::Waits(halt) if input.params.shadow => {
                Progress::Done(self.wait_for_nothing(*halt, &flow, &mut collector, &mut held))
            }
            progress => progress,
        };
        match progress {
            Progress::Done(result) => {
                // The report has what was looked up.
                let told = Told {
                    quotas: collector.quotas.take().unwrap_or_default(),
                    ..Told::default()
                };
                let mut report = collector.report(&flow, &meters, result.err(), input.expect_end);
                report.undecided = undecided;
                let metered = Metered::begin(self, meters);
                let ticket = EngineTicket::new(held).metered(metered);
                Starting::done(report, ticket.told(told))
            }
            Progress::Waits(halt) => {
                let Collector {
                    decisions,
                    quotas,
                    lookup_stage,
                } = collector;
                let notes = Notes {
                    decisions,
                    looks_up: input.cache_lookup,
                    found: lookup_stage.and_then(|lookup_stage| lookup_stage.found),
                    quotas,
                };
                let flow = OwnedFlow::new(&flow, input.params, &*self.shared.clock);
                let waiting = Waiting::new(self, flow, *halt, held, notes, meters);
                Starting::waits(waiting, input.expect_end)
            }
        }
    }

    /// Ends a flow that will not wait: who would have to turns it away.
    pub(super) fn wait_for_nothing(
        &self,
        mut halt: Halt,
        flow: &Flow<'_, '_>,
        observer: &mut impl Observer,
        held: &mut Slots,
    ) -> Result<(), Denied> {
        let mut tracker = DecisionTracker::new(observer);
        let result = loop {
            // Each round is over when it begins.
            halt.round.give_up();
            if let Some(result) = halt.go_on(flow, &mut tracker, held, &*self.shared.clock) {
                break result;
            }
        };
        self.shared.decision_counters.count(result.is_ok());
        result
    }

    /// Control loops first: they may have something new to say to those who decide.
    #[inline(always)]
    pub(super) fn tick_loops(&self, live: &Snapshot) {
        if live.control.is_on() {
            live.control.catch_up(nanos(self.shared.clock.now()));
        }
    }

    /// Flows that wait are counted when they are done. The flag is set for a flow that was let in
    /// though no component decided about it.
    pub(super) fn run(
        &self,
        live: &Snapshot,
        flow: &Flow<'_, '_>,
        observer: &mut impl Observer,
        held: &mut Slots,
    ) -> (Progress, bool) {
        let EngineShared {
            clock,
            decision_counters,
            ..
        } = &*self.shared;
        self.tick_loops(live);
        let mut tracker = DecisionTracker::new(observer);
        let progress = stages::run(&live.index, &**clock, flow, &mut tracker, held);
        let mut undecided = false;
        if let Progress::Done(result) = &progress {
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
