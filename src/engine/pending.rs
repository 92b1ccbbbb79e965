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
use super::decide::verdict;
use super::flux_meter::{Matched, Metered};
use super::report::{CheckReport, Collector, LimiterDecision};
use super::stages::{Denied, Flow, Halt, LATEST_DEADLINE, NO_DEADLINE};
use super::ticket::{EngineTicket, Slots, Told};
use super::undecided::DecisionTracker;
use super::{Engine, StartingHttp};
#[cfg(feature = "server")]
use crate::flow::CacheValue;
use crate::flow::{CacheLookup, FlowParams, Quota, Verdict};

/// Timers need not take longer times.
const LONGEST_SLEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A decision of an [`Engine`](super::Engine) that has to wait for tokens.
///
/// It needs no task and is woken when there is something to do. Dropping it leaves the queue at
/// once and gives back what was granted meanwhile.
///
/// Times are waited for on Tokio's timer, unless the engine's [`Clock`](super::Clock) sees to it:
/// outside of a Tokio runtime a flow that would have to is turned away instead, and a runtime
/// without its timers enabled panics.
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
pub struct EnginePending(Pend);

enum Pend {
    Flow(Pin<Box<Waiting>>),
    Http(Box<StartingHttp>),
}

impl EnginePending {
    pub(super) fn new(waiting: Waiting) -> Self {
        Self(Pend::Flow(Box::pin(waiting)))
    }

    pub(super) fn http(starting: StartingHttp) -> Self {
        Self(Pend::Http(Box::new(starting)))
    }
}

impl Future for EnginePending {
    type Output = Verdict<EngineTicket>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Pend::Flow(waiting) => {
                let (result, ticket) = ready!(waiting.as_mut().poll(cx));
                let told = waiting.as_mut().project().notes.told();
                Poll::Ready(verdict(result, ticket.told(told)))
            }
            Pend::Http(starting) => {
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

/// An answer to come, of [`Engine::start`](super::Engine::start). Like [`EnginePending`], with all
/// there is to tell.
///
/// See [`Engine::start`](super::Engine::start) for an example.
#[must_use = "futures do nothing unless polled"]
pub struct Starting(Start);

// Most flows need not wait: theirs is the one that is worth no box.
#[allow(clippy::large_enum_variant)]
enum Start {
    Done(Option<(CheckReport, EngineTicket)>),
    Waits(Pin<Box<Waiting>>, bool),
}

impl Starting {
    pub(super) fn done(report: CheckReport, ticket: EngineTicket) -> Self {
        Self(Start::Done(Some((report, ticket))))
    }

    /// The answer, if there is one without waiting.
    pub(super) fn at_once(&mut self) -> Option<(CheckReport, EngineTicket)> {
        match &mut self.0 {
            Start::Done(answer) => answer.take(),
            Start::Waits(..) => None,
        }
    }

    pub(super) fn waits(waiting: Waiting, expect_end: bool) -> Self {
        Self(Start::Waits(Box::pin(waiting), expect_end))
    }

    /// Returns the bytes of the texts and values that the flow holds while it waits, 0 when it has
    /// its answer.
    #[cfg(feature = "server")]
    pub(crate) fn held_bytes(&self) -> usize {
        match &self.0 {
            Start::Done(_) => 0,
            Start::Waits(waiting, _) => waiting.flow.held_bytes() + waiting.notes.held_bytes(),
        }
    }

    /// Waits no longer: a flow that still does is turned away, as if its time were over.
    ///
    /// What it decided before counts; the answer is there at the next poll.
    pub fn give_up(&mut self) {
        if let Start::Waits(waiting, _) = &mut self.0 {
            waiting.as_mut().project().halt.round.give_up();
        }
    }
}

/// # Panics
///
/// When it is polled after it was ready.
impl Future for Starting {
    type Output = (CheckReport, EngineTicket);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Start::Done(answer) => Poll::Ready(answer.take().expect("it was not ready before")),
            Start::Waits(waiting, expect_end) => {
                let (result, ticket) = ready!(waiting.as_mut().poll(cx));
                let waiting = waiting.as_mut().project();
                let Told { cached, quotas, .. } = waiting.notes.told();
                let collector = Collector {
                    decisions: waiting.notes.decisions.take(),
                    ..Collector::default()
                };
                let mut report = waiting.flow.with(0, |flow| {
                    collector.report(flow, waiting.meters, result.err(), *expect_end)
                });
                report.cache_lookup = cached;
                let told = Told {
                    quotas,
                    ..Told::default()
                };
                Poll::Ready((report, ticket.told(told)))
            }
        }
    }
}

impl fmt::Debug for Starting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Starting").finish_non_exhaustive()
    }
}

/// A flow that outlives its request.
#[derive(Debug)]
pub(super) struct OwnedFlow {
    control_point: Box<str>,
    services: Box<[Box<str>]>,
    params: FlowParams<'static>,
    deadline: Nanos,
}

impl OwnedFlow {
    pub(super) fn new(flow: &Flow<'_, '_>, params: &FlowParams<'_>, clock: &dyn Clock) -> Self {
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

    #[cfg(feature = "server")]
    fn held_bytes(&self) -> usize {
        let labels = self.params.labels.iter();
        let labels = labels.map(|(key, value)| key.len() + value.len() + HELD);
        let services = self.services.iter().map(|service| service.len() + HELD);
        let keys = self.params.global_cache_keys.iter();
        let keys = keys.chain(&self.params.result_cache_key);
        let keys = keys.map(|key| key.len() + HELD);
        self.control_point.len() + labels.chain(services).chain(keys).sum::<usize>()
    }

    fn with<R>(&self, now: Nanos, act: impl FnOnce(&Flow<'_, '_>) -> R) -> R {
        let services: SmallVec<[&str; 4]> = self.services.iter().map(|one| &**one).collect();
        act(&Flow {
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

/// What is to be told about a flow.
#[derive(Debug)]
pub(super) struct Notes {
    /// `None` when nobody wants to know.
    pub(super) decisions: Option<Vec<LimiterDecision>>,
    /// The flow asks the caches.
    pub(super) looks_up: bool,
    pub(super) found: Option<CacheLookup>,
    /// `None` when nobody wants to know.
    pub(super) quotas: Option<Vec<Quota>>,
}

/// Bytes that one text counts for beside its own.
#[cfg(feature = "server")]
const HELD: usize = 64;
/// Bytes that a decision counts for beside the key it names.
#[cfg(feature = "server")]
const DECISION: usize = 512;

impl Notes {
    #[cfg(feature = "server")]
    fn held_bytes(&self) -> usize {
        let value = |value: &CacheValue| match value {
            Ok(Some(value)) => value.len(),
            _ => 0,
        };
        let found = self.found.as_ref().map_or(0, |found| {
            let global = found.global.iter();
            let global = global.map(|(key, found)| key.len() + value(found) + HELD);
            global.sum::<usize>() + found.result.as_ref().map_or(0, value)
        });
        let decisions = self.decisions.as_ref().map_or(0, |all| {
            let labels = all.iter().map(|one| one.details.text_bytes() + DECISION);
            labels.sum::<usize>()
        });
        found + decisions
    }

    fn told(&mut self) -> Told {
        Told {
            cached: self.found.take(),
            quotas: self.quotas.take().unwrap_or_default(),
            http: None,
        }
    }
}

pin_project! {
    /// A flow in the steps in which flows wait.
    pub(super) struct Waiting {
        engine: Engine,
        flow: OwnedFlow,
        halt: Halt,
        held: Slots,
        notes: Notes,
        meters: Matched,
        #[pin]
        timer: Option<Sleep>,
        // What the timer is set for.
        alarm: Nanos,
    }

    impl PinnedDrop for Waiting {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if this.halt.is_over() {
                return;
            }
            let now = nanos(this.engine.shared.clock.now());
            let halt = this.halt;
            this.flow.with(now, |flow| halt.abandon(flow, now));
        }
    }
}

impl Waiting {
    pub(super) fn new(
        engine: &Engine,
        flow: OwnedFlow,
        halt: Halt,
        held: Slots,
        notes: Notes,
        meters: Matched,
    ) -> Self {
        Self {
            engine: engine.clone(),
            flow,
            halt,
            held,
            notes,
            meters,
            timer: None,
            alarm: Nanos::MAX,
        }
    }
}

impl Future for Waiting {
    type Output = (Result<(), Denied>, EngineTicket);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let shared = &*this.engine.shared;
        let clock = &*shared.clock;
        loop {
            let now = nanos(clock.now());
            let round = &mut this.halt.round;
            if round.settle(now, Some(cx.waker())).is_pending() {
                let next = round.next_time();
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
                if *this.alarm != next || this.timer.is_none() {
                    if Handle::try_current().is_err() {
                        log_event!(warn, "a flow cannot wait: there is no Tokio runtime");
                        round.give_up();
                        continue;
                    }
                    *this.alarm = next;
                    // A timer that is set too early is set again.
                    this.timer
                        .set(Some(sleep(duration(next - now).min(LONGEST_SLEEP))));
                }
                if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                    ready!(timer.poll(cx));
                }
                // The clock may lag behind Tokio's: then for the rest.
                this.timer.set(None);
                continue;
            }
            let notes = &mut *this.notes;
            let mut collector = Collector {
                decisions: notes.decisions.take(),
                quotas: notes.quotas.take(),
                lookup_stage: notes
                    .looks_up
                    .then(|| CacheLookupStage::new(&shared.caches, &this.flow.params)),
            };
            let (halt, held) = (&mut *this.halt, &mut *this.held);
            let mut tracker = DecisionTracker::new(&mut collector);
            let end = this
                .flow
                .with(now, |flow| halt.go_on(flow, &mut tracker, held, clock));
            notes.decisions = collector.decisions;
            notes.quotas = collector.quotas;
            if let Some(found) = collector
                .lookup_stage
                .and_then(|lookup_stage| lookup_stage.found)
            {
                notes.found = Some(found);
            }
            if let Some(result) = end {
                shared.decision_counters.count(result.is_ok());
                let metered = Metered::begin(this.engine, this.meters.clone());
                let ticket = EngineTicket::new(std::mem::take(this.held)).metered(metered);
                return Poll::Ready((result, ticket));
            }
        }
    }
}
