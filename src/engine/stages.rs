//! The steps a flow goes through: all components of a step decide, then the next one begins.

use smallvec::SmallVec;

use super::clock::{Clock, Nanos, nanos};
use super::index::{Index, Placed};
use super::limiters::Decided;
use super::report::LimiterReason;
use crate::flow::{Labels, RejectReason};

/// The time left of a flow that has all the time there is.
pub(crate) const NO_DEADLINE: Nanos = Nanos::MAX;

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
    /// Rate limiters.
    Limiters,
}

const STEPS: [Step; 1] = [Step::Limiters];

impl Step {
    fn reject_reason(self) -> RejectReason {
        match self {
            Self::Limiters => RejectReason::RateLimited,
        }
    }

    /// The no of this step; a code of 0 stands for the usual one.
    fn denied(self, code: i32, wait: Nanos) -> Denied {
        let reason = self.reject_reason();
        let code = match code {
            0 => i32::from(reason.default_status().as_u16()),
            code => code,
        };
        Denied { reason, code, wait }
    }

    /// A rejection reverts what was granted since its batch began, and nothing before that.
    fn begins_batch(self) -> bool {
        match self {
            Self::Limiters => true,
        }
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

/// Sees each decision; nothing is made for one who does not look.
pub(crate) trait Observer {
    fn decided(&mut self, by: &Placed, decided: &Decided);

    /// Called once a flow, when the steps before quota and load schedulers let it in: looks up
    /// what the flow asks of the caches. Where it is true, the result cache has the answer: the
    /// flow is accepted, and those schedulers are not asked.
    #[inline(always)]
    fn look_up(&mut self, _flow: &Flow<'_, '_>, _clock: &dyn Clock) -> bool {
        false
    }
}

impl Observer for () {
    fn decided(&mut self, _: &Placed, _: &Decided) {}
}

/// Decides one flow.
#[inline(always)]
pub(crate) fn run(
    index: &Index,
    clock: &dyn Clock,
    flow: &Flow<'_, '_>,
    observer: &mut impl Observer,
) -> Result<(), Denied> {
    // No ramp exists yet that such a flow could match.
    if flow.ramp_mode {
        return Err(Denied {
            reason: RejectReason::NoMatchingRamp,
            code: 0,
            wait: 0,
        });
    }
    match *index.matching(flow) {
        [] => {}
        [only] => alone(index.component(only), nanos(clock.now()), flow, observer)?,
        ref all => together(index, all, nanos(clock.now()), flow, observer)?,
    }
    observer.look_up(flow, clock);
    Ok(())
}

/// One component: there is no step but its own, and nothing to revert.
#[inline(always)]
fn alone(
    component: &Placed,
    now: Nanos,
    flow: &Flow<'_, '_>,
    observer: &mut impl Observer,
) -> Result<(), Denied> {
    let decided = component.limiter.decide(flow, now);
    observer.decided(component, &decided);
    if decided.dropped {
        let code = component.limiter.denied_code();
        return Err(component.limiter.step().denied(code, decided.wait));
    }
    Ok(())
}

#[inline(never)]
fn together(
    index: &Index,
    matching: &[u32],
    now: Nanos,
    flow: &Flow<'_, '_>,
    observer: &mut impl Observer,
) -> Result<(), Denied> {
    let mut granted: SmallVec<[(&Placed, f64); 4]> = SmallVec::new();
    for step in STEPS {
        if step.begins_batch() {
            granted.clear();
        }
        let mut denied = None;
        let mut wait = 0;
        for &at in matching {
            let component = index.component(at);
            if component.limiter.step() != step {
                continue;
            }
            let decided = component.limiter.decide(flow, now);
            observer.decided(component, &decided);
            wait = decided.wait.max(wait);
            if decided.dropped {
                denied = Some(component.limiter.denied_code());
            } else if decided.reason == LimiterReason::Unspecified && decided.consumed > 0.0 {
                granted.push((component, decided.consumed));
            }
        }
        if let Some(code) = denied {
            for (component, consumed) in granted {
                component.limiter.revert(flow, consumed, now);
            }
            return Err(step.denied(code, wait));
        }
    }
    Ok(())
}
