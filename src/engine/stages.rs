//! The steps a flow goes through: all components of a step decide, then the next one begins.

use smallvec::SmallVec;

use super::clock::{Clock, Nanos, nanos};
use super::index::{Index, Placed};
use super::limiters::Decided;
use super::report::LimiterReason;
use crate::flow::{Labels, RejectReason};

/// What the engine looks at of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow<'a, 'l> {
    pub(crate) control_point: &'a str,
    pub(crate) services: &'a [&'a str],
    pub(crate) labels: &'a Labels<'l>,
    pub(crate) ramp_mode: bool,
    /// Until the deadline, if there is one.
    pub(crate) time_left: Option<Nanos>,
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
}

impl Observer for () {
    fn decided(&mut self, _: &Placed, _: &Decided) {}
}

type Granted<'a> = SmallVec<[(&'a Placed, f64); 4]>;

/// Decides one flow.
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
    let matching = index.matching(flow);
    if matching.is_empty() {
        return Ok(());
    }

    let now = nanos(clock.now());
    let mut granted = Granted::new();
    for step in STEPS {
        if step.begins_batch() {
            granted.clear();
        }
        let mut denied = None;
        let mut wait = 0;
        for &at in &matching {
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
        if let Some(own_code) = denied {
            for (component, consumed) in granted {
                component.limiter.revert(flow, consumed, now);
            }
            let reason = step.reject_reason();
            let code = match own_code {
                0 => i32::from(reason.default_status().as_u16()),
                code => code,
            };
            return Err(Denied { reason, code, wait });
        }
    }
    Ok(())
}
