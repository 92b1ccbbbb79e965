//! Futures of decisions that have to wait for tokens, slots, or a shared store.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep};

use super::clock::{DecisionTime, Nanos, duration, nanos};
use super::collector::{DecisionEnd, OutputCollector, ReportCollector, VerdictCollector};
use super::flow_timer::FlowTimer;
use super::flux_meter::MatchedMeters;
use super::held_slots::HeldSlots;
use super::in_process::EngineShared;
use super::owned_flow::OwnedFlow;
use super::report::CheckReport;
use super::run::RunObserver;
use super::stages::Suspended;
use super::ticket::EngineTicket;
use aperture_core::Verdict;

/// The longest time that a timer is set for at once.
const MAX_SLEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A decision of an [`Engine`](super::Engine) that has to wait: for tokens or slots, or for a
/// [shared store](super#shared-limits).
///
/// It needs no task and is woken when it can make progress. Dropping it leaves the queue at once
/// and returns what was granted meanwhile.
///
/// It waits on Tokio's timer, unless the engine's [`Clock`](super::Clock) wakes it. Outside of a
/// Tokio runtime, a flow that would have to wait in a queue is rejected instead, and one that waits
/// for a shared store is decided without it.
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
pub struct EnginePending(Pin<Box<WaitingFlow<VerdictCollector>>>);

impl EnginePending {
    pub(super) const fn new(waiting: Pin<Box<WaitingFlow<VerdictCollector>>>) -> Self {
        Self(waiting)
    }
}

impl Future for EnginePending {
    type Output = Verdict<EngineTicket>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(|collected| collected.verdict)
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
pub struct PendingReport(PendingDecision<ReportCollector>);

impl PendingReport {
    pub(super) const fn new(decision: PendingDecision<ReportCollector>) -> Self {
        Self(decision)
    }

    /// Returns the bytes of the texts and values that the flow holds while it waits, or 0 if it is
    /// decided.
    #[doc(hidden)]
    pub fn held_bytes(&self) -> usize {
        self.0.held_bytes()
    }

    /// Stops waiting: a flow that still waits is rejected, as if its deadline had passed.
    ///
    /// Decisions made before count. The report is ready at the next poll.
    pub fn give_up(&mut self) {
        self.0.give_up();
    }
}

/// # Panics
///
/// Panics if it is polled after it was ready.
impl Future for PendingReport {
    type Output = (CheckReport, EngineTicket);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl fmt::Debug for PendingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReport").finish_non_exhaustive()
    }
}

/// A decision that was made at once, or that has to wait, with the output of its collector.
// Not boxed, because most flows do not wait.
#[allow(clippy::large_enum_variant)]
pub(super) enum PendingDecision<C: OutputCollector> {
    /// `None` once the output was taken.
    Decided(Option<C::Output>),
    Waits(Pin<Box<WaitingFlow<C>>>),
}

impl<C: OutputCollector> PendingDecision<C> {
    /// Returns the bytes of the texts and values that the flow holds while it waits, or 0 if it is
    /// decided.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Decided(_) => 0,
            Self::Waits(waiting) => waiting.held_bytes(),
        }
    }

    /// Rejects the flow if it still waits. The output is ready at the next poll.
    pub(super) fn give_up(&mut self) {
        if let Self::Waits(waiting) = self {
            waiting.as_mut().project().suspended.give_up();
        }
    }
}

/// The output is moved, never pinned.
impl<C: OutputCollector> Unpin for PendingDecision<C> {}

impl<C: OutputCollector> Future for PendingDecision<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        match self.get_mut() {
            Self::Decided(output) => Poll::Ready(
                output
                    .take()
                    .expect("it must not be polled after completion"),
            ),
            Self::Waits(waiting) => waiting.as_mut().poll(cx),
        }
    }
}

pin_project! {
    /// A flow in the steps in which flows wait. It is the future of the output of its collector.
    pub(super) struct WaitingFlow<C> {
        engine: Arc<EngineShared>,
        flow: OwnedFlow,
        suspended: Suspended,
        held: HeldSlots,
        // Taken when the flow is decided.
        collector: Option<C>,
        looks_up: bool,
        meters: MatchedMeters,
        #[pin]
        timer: Option<Sleep>,
        // The time that the timer is set for.
        timer_deadline: Nanos,
    }

    impl<C> PinnedDrop for WaitingFlow<C> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if this.suspended.is_finished() {
                return;
            }
            let now = nanos(this.engine.clock.now());
            let suspended = this.suspended;
            this.flow.with(now, |flow| suspended.abandon(flow, now));
        }
    }
}

impl<C: OutputCollector> WaitingFlow<C> {
    pub(super) fn new(
        engine: &Arc<EngineShared>,
        flow: OwnedFlow,
        suspended: Suspended,
        held: HeldSlots,
        collector: C,
        looks_up: bool,
        meters: MatchedMeters,
    ) -> Self {
        Self {
            engine: Arc::clone(engine),
            flow,
            suspended,
            held,
            collector: Some(collector),
            looks_up,
            meters,
            timer: None,
            timer_deadline: Nanos::MAX,
        }
    }
    fn held_bytes(&self) -> usize {
        let collected = self
            .collector
            .as_ref()
            .map_or(0, OutputCollector::held_bytes);
        self.flow.held_bytes() + collected
    }
}

/// # Panics
///
/// Panics if it is polled after it was ready.
impl<C: OutputCollector> Future for WaitingFlow<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let mut this = self.project();
        let shared = &**this.engine;
        let clock = &*shared.clock;
        loop {
            let now = nanos(clock.now());
            let suspended = &mut *this.suspended;
            let polled = this
                .flow
                .with(now, |flow| suspended.poll(flow, now, cx.waker()));
            if polled.is_pending() {
                let next = suspended.next_poll_at();
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
                            "a flow cannot wait outside of a Tokio runtime: it is rejected, or decided \
                             without the shared store"
                        );
                        this.flow
                            .with(now, |flow| suspended.stop_waiting(flow, now));
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
            let collector = this.collector.as_mut();
            let collector = collector.expect("it must not be polled after completion");
            let lookup = this.looks_up.then_some(&this.flow.params);
            let mut observer = RunObserver::new(collector, &shared.caches, lookup);
            let held = &mut *this.held;
            let time = DecisionTime::at(now);
            let end = this.flow.with(now, |flow| {
                suspended.resume(flow, &mut observer, held, &time)
            });
            suspended.decided |= observer.decided;
            let Some(result) = end else {
                continue;
            };
            let collector = this.collector.take();
            let collector = collector.expect("only the end of the wait takes it");
            let undecided = result.is_ok() && !suspended.decided;
            match result.is_ok() {
                true => shared.decision_counters.count_accepted(undecided),
                false => shared.decision_counters.count_rejected(),
            }
            let flow_timer = FlowTimer::begin(this.engine, std::mem::take(this.meters), &time);
            let ticket = EngineTicket::new(std::mem::take(this.held)).with_flow_timer(flow_timer);
            return Poll::Ready(this.flow.with(0, |flow| {
                collector.finish(DecisionEnd {
                    flow,
                    result,
                    undecided,
                    ticket,
                })
            }));
        }
    }
}
