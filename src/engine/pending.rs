use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep};

use super::clock::{Nanos, duration, nanos};
use super::report::{CheckReport, Collector};
use super::stages::{Denied, Flow, Halt, NO_DEADLINE, Observer};
use super::ticket::{EngineTicket, Slots};
use super::{Shared, verdict};
use crate::flow::{Labels, Verdict};

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
pub struct EnginePending(Pin<Box<Waiting<()>>>);

impl EnginePending {
    pub(super) fn new(waiting: Waiting<()>) -> Self {
        Self(Box::pin(waiting))
    }
}

impl Future for EnginePending {
    type Output = Verdict<EngineTicket>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (result, held) = ready!(self.0.as_mut().poll(cx));
        Poll::Ready(verdict(result, EngineTicket::new(held)))
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

enum Start {
    Done(Option<(CheckReport, EngineTicket)>),
    Waits(Pin<Box<Waiting<Collector>>>, bool),
}

impl Starting {
    pub(super) fn done(report: CheckReport, held: Slots) -> Self {
        Self(Start::Done(Some((report, EngineTicket::new(held)))))
    }

    pub(super) fn waits(waiting: Waiting<Collector>, expect_end: bool) -> Self {
        Self(Start::Waits(Box::pin(waiting), expect_end))
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
                let (result, held) = ready!(waiting.as_mut().poll(cx));
                let waiting = waiting.as_mut().project();
                let collector = std::mem::take(waiting.observer);
                let report = waiting
                    .flow
                    .with(0, |flow| collector.report(flow, result.err(), *expect_end));
                Poll::Ready((report, EngineTicket::new(held)))
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
    labels: Labels<'static>,
    ramp_mode: bool,
    deadline: Nanos,
}

impl OwnedFlow {
    pub(super) fn new(flow: &Flow<'_, '_>, now: Nanos) -> Self {
        Self {
            control_point: flow.control_point.into(),
            services: flow.services.iter().map(|one| Box::from(*one)).collect(),
            labels: flow.labels.clone().into_owned(),
            ramp_mode: flow.ramp_mode,
            deadline: match flow.time_left {
                NO_DEADLINE => NO_DEADLINE,
                left => now.saturating_add(left),
            },
        }
    }

    fn with<R>(&self, now: Nanos, act: impl FnOnce(&Flow<'_, '_>) -> R) -> R {
        let services: SmallVec<[&str; 4]> = self.services.iter().map(|one| &**one).collect();
        act(&Flow {
            control_point: &self.control_point,
            services: &services,
            labels: &self.labels,
            ramp_mode: self.ramp_mode,
            time_left: match self.deadline {
                NO_DEADLINE => NO_DEADLINE,
                deadline => deadline.saturating_sub(now).max(0),
            },
        })
    }
}

pin_project! {
    /// A flow in the steps in which flows wait.
    pub(super) struct Waiting<O> {
        shared: Arc<Shared>,
        flow: OwnedFlow,
        halt: Halt,
        held: Slots,
        observer: O,
        #[pin]
        timer: Option<Sleep>,
        // What the clock was asked for.
        alarm: Nanos,
    }
}

impl<O: Observer> Waiting<O> {
    pub(super) fn new(
        shared: Arc<Shared>,
        flow: OwnedFlow,
        halt: Halt,
        held: Slots,
        observer: O,
    ) -> Self {
        Self {
            shared,
            flow,
            halt,
            held,
            observer,
            timer: None,
            alarm: Nanos::MAX,
        }
    }
}

impl<O: Observer> Future for Waiting<O> {
    type Output = (Result<(), Denied>, Slots);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let clock = &*this.shared.clock;
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
                    this.timer.set(Some(sleep(duration(next - now))));
                }
                if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                    ready!(timer.poll(cx));
                }
                // The clock may lag behind Tokio's: then for the rest.
                this.timer.set(None);
                continue;
            }
            let halt = &mut *this.halt;
            let (observer, held) = (&mut *this.observer, &mut *this.held);
            let end = this
                .flow
                .with(now, |flow| halt.go_on(flow, observer, held, now));
            if let Some(result) = end {
                this.shared.tally.count(result.is_ok());
                return Poll::Ready((result, std::mem::take(this.held)));
            }
        }
    }
}
