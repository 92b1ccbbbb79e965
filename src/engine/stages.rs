//! The steps a flow goes through: all components of a step decide, then the next one begins.

use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use smallvec::SmallVec;

use super::clock::{Clock, Nanos, nanos};
use super::index::Index;
use super::limiters::{Decided, Scheduled, Settled};
use super::placed::Placed;
use super::report::LimiterReason;
use super::ticket::{Held, Slots};
use crate::flow::{Labels, RejectReason};

/// The time left of a flow that has all the time there is.
pub(crate) const NO_DEADLINE: Nanos = Nanos::MAX;
/// The longest time left, and the latest time, that is a deadline: a longer one is as good as this.
pub(crate) const LATEST_DEADLINE: Nanos = NO_DEADLINE - 1;

/// The time left until a deadline, which is one however far away it is: a flow without one waits
/// for no slot.
pub(crate) fn time_left(deadline: Option<Duration>) -> Nanos {
    deadline.map_or(NO_DEADLINE, |left| nanos(left).min(LATEST_DEADLINE))
}

/// What the engine looks at of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow<'a, 'l> {
    pub(crate) control_point: &'a str,
    pub(crate) services: &'a [&'a str],
    pub(crate) labels: &'a Labels<'l>,
    pub(crate) ramp_mode: bool,
    /// Until the deadline, or [`NO_DEADLINE`].
    pub(crate) time_left: Nanos,
}

/// Components that decide together; the order of the variants is the order of the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Samplers that decide about flows in ramp mode, and about no others.
    Ramps,
    /// Samplers.
    Samplers,
    /// Rate limiters and concurrency limiters.
    Limiters,
    /// Concurrency schedulers.
    Concurrency,
    /// Quota schedulers and load schedulers; caches are looked up before.
    Schedulers,
}

/// The steps in which nobody waits: one batch, reverted together.
const AT_ONCE: [Step; 3] = [Step::Ramps, Step::Samplers, Step::Limiters];
/// The steps in which flows may wait, each a batch of its own.
const WAITING: [Step; 2] = [Step::Concurrency, Step::Schedulers];

impl Step {
    fn reject_reason(self) -> RejectReason {
        match self {
            Self::Ramps => RejectReason::NoMatchingRamp,
            Self::Samplers => RejectReason::NotSampled,
            Self::Limiters => RejectReason::RateLimited,
            Self::Concurrency | Self::Schedulers => RejectReason::NoTokens,
        }
    }

    /// The no of this step; a code of 0 stands for the usual one.
    pub(crate) fn denied(self, code: i32, wait: Nanos) -> Denied {
        let reason = self.reject_reason();
        let code = match code {
            0 => i32::from(reason.default_status().as_u16()),
            code => code,
        };
        Denied { reason, code, wait }
    }
}

/// A flow's no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) reason: RejectReason,
    /// 0 when nobody named one.
    pub(crate) code: i32,
    /// The longest wait of the step; 0 when there is none.
    pub(crate) wait: Nanos,
}

impl Denied {
    const NO_RAMP: Self = Self {
        reason: RejectReason::NoMatchingRamp,
        code: 0,
        wait: 0,
    };
}

/// Sees each decision; nothing is made for one who does not look.
pub(crate) trait Observer {
    fn decided(&mut self, flow: &Flow<'_, '_>, by: &Placed, decided: &Decided);

    /// Called once a flow, when the steps before quota and load schedulers let it in: looks up
    /// what the flow asks of the caches. Where it is true, the result cache has the answer: the
    /// flow is accepted, and those schedulers are not asked.
    #[inline(always)]
    fn look_up(&mut self, _flow: &Flow<'_, '_>, _clock: &dyn Clock) -> bool {
        false
    }
}

impl Observer for () {
    fn decided(&mut self, _: &Flow<'_, '_>, _: &Placed, _: &Decided) {}
}

/// How far a flow got.
#[derive(Debug)]
pub(crate) enum Progress {
    Done(Result<(), Denied>),
    /// Some scheduler makes it wait.
    Waits(Box<Halt>),
}

/// Decides one flow, as far as that goes without waiting. Slots it is granted go to `held`.
#[inline(always)]
pub(crate) fn run(
    index: &Index,
    clock: &dyn Clock,
    flow: &Flow<'_, '_>,
    observer: &mut impl Observer,
    held: &mut Slots,
) -> Progress {
    match *index.matching(flow) {
        [] => {
            if flow.ramp_mode {
                return Progress::Done(Err(Denied::NO_RAMP));
            }
            observer.look_up(flow, clock);
            Progress::Done(Ok(()))
        }
        [only] if !flow.ramp_mode && index.component(only).limiter.step() == Step::Limiters => {
            let now = nanos(clock.now());
            let result = alone(index.component(only), now, flow, observer, held);
            if result.is_ok() {
                observer.look_up(flow, clock);
            }
            Progress::Done(result)
        }
        ref all => together(index, all, clock, flow, observer, held),
    }
}

/// One limiter: there is no step but its own, and nothing to revert.
#[inline(always)]
fn alone(
    component: &Placed,
    now: Nanos,
    flow: &Flow<'_, '_>,
    observer: &mut impl Observer,
    held: &mut Slots,
) -> Result<(), Denied> {
    let Settled {
        decided,
        held: slot,
    } = component.limiter.decide(flow, now);
    observer.decided(flow, component, &decided);
    if component.rejects(&decided) {
        let code = component.limiter.denied_code();
        return Err(component.limiter.step().denied(code, decided.wait));
    }
    if let Some(slot) = slot {
        held.push(slot);
    }
    Ok(())
}

#[inline(never)]
fn together(
    index: &Index,
    matching: &[u32],
    clock: &dyn Clock,
    flow: &Flow<'_, '_>,
    observer: &mut impl Observer,
    held: &mut Slots,
) -> Progress {
    let now = nanos(clock.now());
    if let Err(denied) = at_once(index, matching, now, flow, observer, held) {
        return Progress::Done(Err(denied));
    }
    let schedulers: SmallVec<[&Arc<Placed>; 4]> = matching
        .iter()
        .map(|at| index.component(*at))
        .filter(|component| component.limiter.step() >= Step::Concurrency)
        .collect();
    for (at, step) in WAITING.into_iter().enumerate() {
        if step == Step::Schedulers && observer.look_up(flow, clock) {
            break;
        }
        let own = schedulers
            .iter()
            .filter(|component| component.limiter.step() == step);
        let mut round = Round::begin(step, own.copied(), flow, now);
        if round.settle(now, None).is_pending() {
            let later = schedulers
                .iter()
                .filter(|component| WAITING[at + 1..].contains(&component.limiter.step()))
                .map(|component| Arc::clone(component))
                .collect();
            return Progress::Waits(Box::new(Halt { round, later }));
        }
        if let Err(denied) = round.conclude(flow, observer, held, now) {
            return Progress::Done(Err(denied));
        }
    }
    Progress::Done(Ok(()))
}

/// The steps in which nobody waits.
fn at_once(
    index: &Index,
    matching: &[u32],
    now: Nanos,
    flow: &Flow<'_, '_>,
    observer: &mut impl Observer,
    held: &mut Slots,
) -> Result<(), Denied> {
    let mut granted: Granted<'_> = SmallVec::new();
    for step in AT_ONCE {
        if step == Step::Ramps && !flow.ramp_mode {
            continue;
        }
        let mut denied = None;
        let mut wait = 0;
        let mut hopeless = false;
        let mut decisions = 0;
        for &at in matching {
            let component = index.component(at);
            if component.limiter.step() != step {
                continue;
            }
            let Settled {
                decided,
                held: slot,
            } = component.limiter.decide(flow, now);
            observer.decided(flow, component, &decided);
            decisions += 1;
            if component.rejects(&decided) {
                denied = Some(component.limiter.denied_code());
                hopeless |= decided.hopeless;
            } else if decided.dropped {
                continue;
            } else {
                granted.push((component, decided, slot));
            }
            wait = decided.wait.max(wait);
        }
        if let Some(code) = denied {
            revert(granted, flow, now);
            // No wait is told where one of them would still say no after it.
            return Err(step.denied(code, if hopeless { 0 } else { wait }));
        }
        if step == Step::Ramps && decisions == 0 {
            return Err(Denied::NO_RAMP);
        }
    }
    held.extend(granted.into_iter().filter_map(|(_, _, slot)| slot));
    Ok(())
}

type Granted<'a> = SmallVec<[(&'a Placed, Decided, Option<Held>); 4]>;

/// Gives back what a batch granted before one of it said no. Slots go by being dropped.
fn revert(granted: Granted<'_>, flow: &Flow<'_, '_>, now: Nanos) {
    for (component, decided, slot) in granted {
        if decided.reason == LimiterReason::Unspecified && decided.consumed > 0.0 {
            component.limiter.revert(flow, decided.consumed, now);
        }
        drop(slot);
    }
}

/// A flow that waits: the step it is in, and who comes later.
#[derive(Debug)]
pub(crate) struct Halt {
    pub(crate) round: Round,
    pub(crate) later: SmallVec<[Arc<Placed>; 2]>,
}

impl Halt {
    /// Goes on with what comes after a round that is over; `Some` is the end.
    pub(crate) fn go_on(
        &mut self,
        flow: &Flow<'_, '_>,
        observer: &mut impl Observer,
        held: &mut Slots,
        clock: &dyn Clock,
    ) -> Option<Result<(), Denied>> {
        let now = nanos(clock.now());
        if let Err(denied) = self.round.conclude(flow, observer, held, now) {
            return Some(Err(denied));
        }
        if self.round.step == Step::Schedulers || observer.look_up(flow, clock) {
            return Some(Ok(()));
        }
        let later = std::mem::take(&mut self.later);
        self.round = Round::begin(Step::Schedulers, later.iter(), flow, now);
        None
    }
}

impl Halt {
    /// Nobody is asked any more.
    pub(crate) fn is_over(&self) -> bool {
        self.round.members.is_empty()
    }

    /// The flow goes away: that is a no, and gives back what others granted already.
    #[cold]
    pub(crate) fn abandon(&mut self, flow: &Flow<'_, '_>, now: Nanos) {
        self.round.give_up();
        let _ = self.round.conclude(flow, &mut (), &mut Slots::new(), now);
    }
}

/// The schedulers of a step, deciding side by side.
#[derive(Debug)]
pub(crate) struct Round {
    step: Step,
    begun: Nanos,
    members: SmallVec<[(Arc<Placed>, Scheduled); 1]>,
}

impl Round {
    fn begin<'a>(
        step: Step,
        members: impl Iterator<Item = &'a Arc<Placed>>,
        flow: &Flow<'_, '_>,
        now: Nanos,
    ) -> Self {
        let members = members.map(|component| {
            component.check_budget(flow);
            let scheduled = match component.limiter.schedule(flow, now) {
                // Nobody waits for what is not enforced.
                Scheduled::Waits(waiter) if component.is_dry() => {
                    drop(waiter);
                    Scheduled::Settled(Settled::from(Decided::REFUSED))
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

    /// Asks those who wait. The first no makes the others give up.
    ///
    /// Without a waker nobody is told to wake anybody: whoever waits has to be asked again.
    pub(crate) fn settle(&mut self, now: Nanos, waker: Option<&Waker>) -> Poll<()> {
        let mut waits = false;
        let mut dropped = false;
        for (component, scheduled) in &mut self.members {
            if let (Scheduled::Waits(waiter), Some(waker)) = (&mut *scheduled, waker)
                && let Poll::Ready(mut settled) = waiter.poll(now, waker)
            {
                settled.decided.queued = now.saturating_sub(self.begun);
                *scheduled = Scheduled::Settled(settled);
            }
            match scheduled {
                Scheduled::Settled(settled) => {
                    dropped |= settled.decided.dropped && !component.is_dry();
                }
                Scheduled::Waits(_) => waits = true,
            }
        }
        if waits && dropped {
            self.give_up();
            waits = false;
        }
        if waits {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Everybody who still waits leaves and counts as turned away.
    pub(crate) fn give_up(&mut self) {
        for (_, scheduled) in &mut self.members {
            if let Scheduled::Waits(_) = scheduled {
                *scheduled = Scheduled::Settled(Settled::from(Decided::REFUSED));
            }
        }
    }

    /// When one of those who wait has to be asked again, if nobody wakes them before.
    pub(crate) fn next_time(&self) -> Nanos {
        let times = self.members.iter().map(|(_, scheduled)| match scheduled {
            Scheduled::Settled(_) => Nanos::MAX,
            Scheduled::Waits(waiter) => waiter.next_time(),
        });
        times.min().unwrap_or(Nanos::MAX)
    }

    /// The step is over.
    fn conclude(
        &mut self,
        flow: &Flow<'_, '_>,
        observer: &mut impl Observer,
        held: &mut Slots,
        now: Nanos,
    ) -> Result<(), Denied> {
        let members = std::mem::take(&mut self.members);
        let mut denied = None;
        let (components, settled): (SmallVec<[Arc<Placed>; 1]>, SmallVec<[Settled; 1]>) = members
            .into_iter()
            .map(|(component, scheduled)| match scheduled {
                Scheduled::Settled(settled) => (component, settled),
                Scheduled::Waits(_) => (component, Settled::from(Decided::REFUSED)),
            })
            .unzip();
        let mut granted: Granted<'_> = SmallVec::new();
        for (component, settled) in components.iter().zip(settled) {
            observer.decided(flow, component, &settled.decided);
            if component.rejects(&settled.decided) {
                denied = Some(component.limiter.denied_code());
            } else if !settled.decided.dropped {
                granted.push((component, settled.decided, settled.held));
            }
        }
        if let Some(code) = denied {
            revert(granted, flow, now);
            return Err(self.step.denied(code, 0));
        }
        held.extend(granted.into_iter().filter_map(|(_, _, slot)| slot));
        Ok(())
    }
}
