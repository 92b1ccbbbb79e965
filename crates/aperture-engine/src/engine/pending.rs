//! Futures of decisions that have to wait for tokens or slots.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep};

use super::cache::CacheLookupStage;
use super::clock::{Clock, Nanos, duration, nanos};
use super::collector::Collector;
use super::decide::verdict;
use super::decision::EngineDenial;
use super::engine_flow::{EngineFlow, LATEST_DEADLINE, NO_DEADLINE};
use super::flow_timer::FlowTimer;
use super::flux_meter::MatchedMeters;
use super::held_slots::HeldSlots;
use super::report::{CheckReport, LimiterDecision};
use super::stages::Suspended;
use super::ticket::{EngineTicket, TicketExtras};
use super::undecided::DecisionTracker;
use super::{Engine, StartingHttp};
use crate::flow::CacheValue;
use crate::flow::{CacheLookup, FlowParams, Quota, Verdict};

/// The longest time that a timer is set for at once.
const MAX_SLEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A decision of an [`Engine`](super::Engine) that has to wait for tokens or slots.
///
/// It needs no task and is woken when it can make progress. Dropping it leaves the queue at once
/// and returns what was granted meanwhile.
///
/// It waits on Tokio's timer, unless the engine's [`Clock`](super::Clock) wakes it. Outside of a
/// Tokio runtime, a flow that would have to wait is rejected instead.
///
/// # Panics
///
/// Polling it panics in a Tokio runtime whose timers are not enabled.
///
/// ```
/// use tower_aperture::engine::{Engine, EnginePending};
/// use tower_aperture::Decider;
///
/// fn waits<D: Decider<Pending = EnginePending>>(_: &D) {}
/// waits(&Engine::builder().build()?);
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct EnginePending(PendingDecisionKind);

enum PendingDecisionKind {
    Flow(Pin<Box<WaitingFlow>>),
    Http(Box<StartingHttp>),
}

impl EnginePending {
    pub(super) fn new(waiting: WaitingFlow) -> Self {
        Self(PendingDecisionKind::Flow(Box::pin(waiting)))
    }

    pub(super) fn http(starting: StartingHttp) -> Self {
        Self(PendingDecisionKind::Http(Box::new(starting)))
    }
}

impl Future for EnginePending {
    type Output = Verdict<EngineTicket>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            PendingDecisionKind::Flow(waiting) => {
                let (result, ticket) = ready!(waiting.as_mut().poll(cx));
                let extras = waiting.as_mut().project().parts.take_extras();
                Poll::Ready(verdict(result, ticket.with_extras(extras)))
            }
            PendingDecisionKind::Http(starting) => {
                let (report, ticket) = ready!(Pin::new(starting).poll(cx));
                Poll::Ready(report.into_verdict(ticket))
            }
        }
    }
}

impl fmt::Debug for EnginePending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnginePending").finish_non_exhaustive()
    }
}

/// A pending decision with a full report, of [`Engine::start`](super::Engine::start). It waits like
/// [`EnginePending`].
///
/// See [`Engine::start`](super::Engine::start) for an example.
#[must_use = "futures do nothing unless polled"]
pub struct PendingReport(ReportState);

// Not boxed, because most flows do not wait.
#[allow(clippy::large_enum_variant)]
enum ReportState {
    Done(Option<(CheckReport, EngineTicket)>),
    Waits(Pin<Box<WaitingFlow>>, bool),
}

impl PendingReport {
    pub(super) fn done(report: CheckReport, ticket: EngineTicket) -> Self {
        Self(ReportState::Done(Some((report, ticket))))
    }

    /// Returns the report and the ticket, if the flow did not have to wait.
    pub(super) fn take_ready(&mut self) -> Option<(CheckReport, EngineTicket)> {
        match &mut self.0 {
            ReportState::Done(answer) => answer.take(),
            ReportState::Waits(..) => None,
        }
    }

    pub(super) fn waits(waiting: WaitingFlow, expect_end: bool) -> Self {
        Self(ReportState::Waits(Box::pin(waiting), expect_end))
    }

    /// Returns the bytes of the texts and values that the flow holds while it waits, or 0 if it is
    /// decided.
    #[doc(hidden)]
    pub fn held_bytes(&self) -> usize {
        match &self.0 {
            ReportState::Done(_) => 0,
            ReportState::Waits(waiting, _) => {
                waiting.flow.held_bytes() + waiting.parts.held_bytes()
            }
        }
    }

    /// Stops waiting: a flow that still waits is rejected, as if its deadline had passed.
    ///
    /// Decisions made before count. The report is ready at the next poll.
    pub fn give_up(&mut self) {
        if let ReportState::Waits(waiting, _) = &mut self.0 {
            waiting.as_mut().project().suspended.round.reject_waiting();
        }
    }
}

/// # Panics
///
/// Panics if it is polled after it was ready.
impl Future for PendingReport {
    type Output = (CheckReport, EngineTicket);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            ReportState::Done(answer) => Poll::Ready(
                answer
                    .take()
                    .expect("it must not be polled after completion"),
            ),
            ReportState::Waits(waiting, expect_end) => {
                let (result, ticket) = ready!(waiting.as_mut().poll(cx));
                let waiting = waiting.as_mut().project();
                let TicketExtras { cached, quotas, .. } = waiting.parts.take_extras();
                let collector = Collector {
                    decisions: waiting.parts.decisions.take(),
                    ..Collector::default()
                };
                let mut report = waiting.flow.with(0, |flow| {
                    collector.report(flow, waiting.meters, result.err(), *expect_end)
                });
                report.cache_lookup = cached;
                let extras = TicketExtras {
                    quotas,
                    ..TicketExtras::default()
                };
                Poll::Ready((report, ticket.with_extras(extras)))
            }
        }
    }
}

impl fmt::Debug for PendingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReport").finish_non_exhaustive()
    }
}

/// A flow that owns its data, so that it can wait after the call that started it.
#[derive(Debug)]
pub(super) struct OwnedFlow {
    control_point: Box<str>,
    services: Box<[Box<str>]>,
    params: FlowParams<'static>,
    deadline: Nanos,
}

impl OwnedFlow {
    pub(super) fn new(
        flow: &EngineFlow<'_, '_>,
        params: &FlowParams<'_>,
        clock: &dyn Clock,
    ) -> Self {
        let owned = |key: &Cow<'_, str>| Cow::Owned(String::from(&**key));
        let mut kept = FlowParams::new();
        kept.labels = flow.labels.clone().into_owned();
        kept.ramp_mode = flow.ramp_mode;
        kept.result_cache_key = params.result_cache_key.as_ref().map(owned);
        kept.global_cache_keys = params.global_cache_keys.iter().map(owned).collect();
        Self {
            control_point: flow.control_point.into(),
            services: flow.services.iter().map(|one| Box::from(*one)).collect(),
            params: kept,
            deadline: match flow.time_left {
                NO_DEADLINE => NO_DEADLINE,
                left => nanos(clock.now()).saturating_add(left).min(LATEST_DEADLINE),
            },
        }
    }
    fn held_bytes(&self) -> usize {
        let labels = self.params.labels.iter();
        let labels = labels.map(|(key, value)| key.len() + value.len() + TEXT_OVERHEAD_BYTES);
        let services = self
            .services
            .iter()
            .map(|service| service.len() + TEXT_OVERHEAD_BYTES);
        let keys = self.params.global_cache_keys.iter();
        let keys = keys.chain(&self.params.result_cache_key);
        let keys = keys.map(|key| key.len() + TEXT_OVERHEAD_BYTES);
        self.control_point.len() + labels.chain(services).chain(keys).sum::<usize>()
    }

    fn with<R>(&self, now: Nanos, act: impl FnOnce(&EngineFlow<'_, '_>) -> R) -> R {
        let services: SmallVec<[&str; 4]> = self.services.iter().map(|one| &**one).collect();
        act(&EngineFlow {
            control_point: &self.control_point,
            services: &services,
            labels: &self.params.labels,
            ramp_mode: self.params.ramp_mode,
            time_left: match self.deadline {
                NO_DEADLINE => NO_DEADLINE,
                deadline => deadline.saturating_sub(now).max(0),
            },
        })
    }
}

/// The parts of a report that are collected while the flow waits.
#[derive(Debug)]
pub(super) struct ReportParts {
    /// `None` if the caller needs no decisions.
    pub(super) decisions: Option<Vec<LimiterDecision>>,
    /// Whether the caches are looked up for the flow.
    pub(super) looks_up: bool,
    pub(super) found: Option<CacheLookup>,
    /// `None` if the caller needs no quotas.
    pub(super) quotas: Option<Vec<Quota>>,
}

/// Overhead in bytes of one text, in addition to its length.
const TEXT_OVERHEAD_BYTES: usize = 64;
/// Bytes of one decision, in addition to its texts.
const DECISION_BYTES: usize = 512;

impl ReportParts {
    fn held_bytes(&self) -> usize {
        let value = |value: &CacheValue| match value {
            Ok(Some(value)) => value.len(),
            _ => 0,
        };
        let found = self.found.as_ref().map_or(0, |found| {
            let global = found.global.iter();
            let global = global.map(|(key, found)| key.len() + value(found) + TEXT_OVERHEAD_BYTES);
            global.sum::<usize>() + found.result.as_ref().map_or(0, value)
        });
        let decisions = self.decisions.as_ref().map_or(0, |all| {
            let labels = all
                .iter()
                .map(|one| one.details.text_bytes() + DECISION_BYTES);
            labels.sum::<usize>()
        });
        found + decisions
    }

    fn take_extras(&mut self) -> TicketExtras {
        TicketExtras {
            cached: self.found.take(),
            quotas: self.quotas.take().unwrap_or_default(),
            http: None,
        }
    }
}

pin_project! {
    /// A flow in the steps in which flows wait.
    pub(super) struct WaitingFlow {
        engine: Engine,
        flow: OwnedFlow,
        suspended: Suspended,
        held: HeldSlots,
        parts: ReportParts,
        meters: MatchedMeters,
        #[pin]
        timer: Option<Sleep>,
        // The time that the timer is set for.
        timer_deadline: Nanos,
    }

    impl PinnedDrop for WaitingFlow {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if this.suspended.is_finished() {
                return;
            }
            let now = nanos(this.engine.shared.clock.now());
            let suspended = this.suspended;
            this.flow.with(now, |flow| suspended.abandon(flow, now));
        }
    }
}

impl WaitingFlow {
    pub(super) fn new(
        engine: &Engine,
        flow: OwnedFlow,
        suspended: Suspended,
        held: HeldSlots,
        parts: ReportParts,
        meters: MatchedMeters,
    ) -> Self {
        Self {
            engine: engine.clone(),
            flow,
            suspended,
            held,
            parts,
            meters,
            timer: None,
            timer_deadline: Nanos::MAX,
        }
    }
}

impl Future for WaitingFlow {
    type Output = (Result<(), EngineDenial>, EngineTicket);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let shared = &*this.engine.shared;
        let clock = &*shared.clock;
        loop {
            let now = nanos(clock.now());
            let round = &mut this.suspended.round;
            if round.poll_members(now, Some(cx.waker())).is_pending() {
                let next = round.next_poll_at();
                if next == Nanos::MAX {
                    return Poll::Pending;
                }
                if clock.wake_at(duration(next), cx.waker()) {
                    if next <= nanos(clock.now()) {
                        continue;
                    }
                    return Poll::Pending;
                }
                if next <= now {
                    continue;
                }
                if *this.timer_deadline != next || this.timer.is_none() {
                    if Handle::try_current().is_err() {
                        log_event!(
                            warn,
                            "a flow was rejected because it cannot wait outside of a Tokio runtime"
                        );
                        round.reject_waiting();
                        continue;
                    }
                    *this.timer_deadline = next;
                    // A timer that fires too early is set again.
                    this.timer
                        .set(Some(sleep(duration(next - now).min(MAX_SLEEP))));
                }
                if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                    ready!(timer.poll(cx));
                }
                // If the clock lags behind Tokio's, wait for the rest.
                this.timer.set(None);
                continue;
            }
            let parts = &mut *this.parts;
            let mut collector = Collector {
                decisions: parts.decisions.take(),
                quotas: parts.quotas.take(),
                lookup_stage: parts
                    .looks_up
                    .then(|| CacheLookupStage::new(&shared.caches, &this.flow.params)),
            };
            let (suspended, held) = (&mut *this.suspended, &mut *this.held);
            let mut tracker = DecisionTracker::new(&mut collector);
            let end = this.flow.with(now, |flow| {
                suspended.resume(flow, &mut tracker, held, clock)
            });
            parts.decisions = collector.decisions;
            parts.quotas = collector.quotas;
            if let Some(found) = collector
                .lookup_stage
                .and_then(|lookup_stage| lookup_stage.found)
            {
                parts.found = Some(found);
            }
            if let Some(result) = end {
                shared.decision_counters.count(result.is_ok());
                let flow_timer = FlowTimer::begin(this.engine, this.meters.clone());
                let ticket =
                    EngineTicket::new(std::mem::take(this.held)).with_flow_timer(flow_timer);
                return Poll::Ready((result, ticket));
            }
        }
    }
}
