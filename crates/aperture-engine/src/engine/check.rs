//! Checks for callers that need the full report, and what all checks with a collector share.

use super::clock::DecisionTime;
use super::collector::{Collector, DecisionEnd, OutputCollector, ReportCollector};
use super::decision::MayWait;
use super::engine_flow::EngineFlow;
use super::flow_timer::FlowTimer;
use super::owned_flow::OwnedFlow;
use super::pending::{PendingDecision, WaitingFlow};
use super::run::{Decided, RunEnd, RunOptions};
use super::snapshot::Snapshot;
use super::{CheckInput, CheckReport, Engine, EngineMode, EngineTicket, PendingReport};

impl Engine {
    /// Decides about a flow at once and returns the full report. A scheduler rejects the flow if it
    /// would have to wait; [`start`](Self::start) lets it wait. Not offered with a
    /// [shared store](super::EngineBuilder::shared), whose replies flows wait for.
    ///
    /// Slots of concurrency limiters and schedulers are held until they are passed to
    /// [`flow_end`](Self::flow_end), or until they expire.
    #[must_use]
    pub fn check(&self, input: &CheckInput<'_, '_>) -> CheckReport {
        let (report, ticket) = self.check_at_once(input, ReportCollector::new(input));
        ticket.leave_open();
        report
    }

    /// Decides about a flow at once: schedulers reject it if it would have to wait, and an engine in
    /// process has no store to wait for.
    pub(super) fn check_at_once<C: OutputCollector>(
        &self,
        input: &CheckInput<'_, '_>,
        collector: C,
    ) -> C::Output {
        match self.run_check(input, collector, MayWait::ForStore) {
            PendingDecision::Decided(Some(output)) => output,
            _ => unreachable!("a flow that may not wait is decided at once"),
        }
    }
}

impl<M: EngineMode> Engine<M> {
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
        PendingReport::new(self.start_check(input, ReportCollector::new(input)))
    }

    /// Decides about a flow, which may have to wait; in shadow mode, for a shared store only.
    pub(super) fn start_check<C: OutputCollector>(
        &self,
        input: &CheckInput<'_, '_>,
        collector: C,
    ) -> PendingDecision<C> {
        self.run_check(input, collector, MayWait::of_params(input.params))
    }

    fn run_check<C: OutputCollector>(
        &self,
        input: &CheckInput<'_, '_>,
        mut collector: C,
        may_wait: MayWait,
    ) -> PendingDecision<C> {
        let flow = input.flow();
        // Loaded once, so that the entire decision uses the same snapshot.
        let live = self.shared.live.load();
        let options = RunOptions {
            lookup: input.cache_lookup.then_some(input.params),
            may_wait,
            memo: None,
        };
        let time = DecisionTime::new(&*self.shared.clock);
        let run = match options.lookup.and(self.shared.caches.shared()) {
            None => self.run(&live, &flow, options, &time, &mut collector, |_, run| run),
            Some(_) => self.run_with_shared_caches(&live, &flow, options, &time, &mut collector),
        };
        let meters = live.matched(&flow);
        match run {
            RunEnd::Decided(Decided {
                result,
                held,
                undecided,
            }) => {
                let flow_timer = FlowTimer::begin(&self.shared, meters, &time);
                let ticket = EngineTicket::new(held).with_flow_timer(flow_timer);
                PendingDecision::Decided(Some(collector.finish(DecisionEnd {
                    flow: &flow,
                    result,
                    undecided,
                    ticket,
                })))
            }
            RunEnd::Waits(suspended, held) => {
                let flow = OwnedFlow::new(&flow, input.params, &time);
                let looks_up = input.cache_lookup;
                let waiting = WaitingFlow::new(
                    &self.shared,
                    flow,
                    *suspended,
                    held,
                    collector,
                    looks_up,
                    meters,
                );
                PendingDecision::Waits(Box::pin(waiting))
            }
        }
    }

    /// Runs a flow through all steps, because it may have to wait for its lookup before the last
    /// one.
    fn run_with_shared_caches(
        &self,
        live: &Snapshot,
        flow: &EngineFlow<'_, '_>,
        options: RunOptions<'_, '_>,
        time: &DecisionTime<'_>,
        collector: &mut impl Collector,
    ) -> RunEnd {
        if live.control.is_on() {
            live.control.catch_up(time.now());
        }
        let matching = live.index.matching(flow);
        if matching.is_empty() {
            self.shared.unselected.note(live, flow.control_point, time);
        }
        self.run_steps(live, &matching, flow, options, time, collector)
    }
}
