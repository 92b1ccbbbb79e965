//! `sampler`: lets a percentage of the flows pass, the same sessions each time.

use std::cell::Cell;
use std::sync::Arc;

use ahash::RandomState;

use super::Decided;
use crate::engine::atomic_signal::AtomicSignal;
use crate::engine::report::{LimiterDetails, LimiterReason};
use crate::engine::stages::{Flow, Step};
use crate::policy;

/// One sampler of a policy, also the one inside of a load ramp.
#[derive(Debug)]
pub(crate) struct Sampler {
    session_key: Option<Arc<str>>,
    pass_through: Vec<Arc<str>>,
    denied_code: i32,
    ramp: bool,
    step: Step,
    /// Not NaN.
    percentage: AtomicSignal,
}

impl Sampler {
    /// Ramps decide about flows in ramp mode; an Agent takes them for common samplers.
    pub(crate) fn new(spec: &policy::Sampler, upstream_ramp_mode: bool) -> Self {
        let step = match spec.ramp_mode && !upstream_ramp_mode {
            true => Step::Ramps,
            false => Step::Samplers,
        };
        let sampler = Self {
            session_key: spec.session_label_key.clone(),
            pass_through: spec.pass_through_label_values.clone(),
            denied_code: spec.denied_response_status_code,
            ramp: spec.ramp_mode,
            step,
            percentage: AtomicSignal::new(0.0),
        };
        // An Agent never hears of a port that is not wired.
        if let Some(port) = spec.accept_percentage {
            sampler.set_percentage(port.initial());
        }
        sampler
    }

    /// The sampler of a changed policy; what a circuit said last stays in force until it says more.
    pub(crate) fn successor(&self, spec: &policy::Sampler, upstream_ramp_mode: bool) -> Self {
        let next = Self::new(spec, upstream_ramp_mode);
        if let Some(policy::Port::Changing(_)) = spec.accept_percentage {
            next.percentage.set(self.percentage.get());
        }
        next
    }

    /// The signal's value; an invalid one lets all flows pass, or none where it is a ramp.
    pub(crate) fn set_percentage(&self, percentage: f64) {
        let invalid = if self.ramp { 0.0 } else { 100.0 };
        self.percentage.set(if percentage.is_nan() {
            invalid
        } else {
            percentage
        });
    }

    pub(super) fn step(&self) -> Step {
        self.step
    }

    pub(super) fn denied_code(&self) -> i32 {
        self.denied_code
    }

    pub(super) fn decide(&self, flow: &Flow<'_, '_>) -> Decided {
        let session = self.session(flow);
        let value = session.unwrap_or_default();
        let accept = self.percentage.get() / 100.0;
        let passes = self.pass_through.iter().any(|one| **one == *value)
            || match session {
                Some(value) => f64::from(fnv1a(value)) / f64::from(u32::MAX) <= accept,
                None => draw() <= accept,
            };
        Decided {
            dropped: !passes,
            ..Decided::PASSED
        }
    }

    pub(super) fn report(&self, flow: &Flow<'_, '_>) -> LimiterDetails {
        let key = self.session_key.as_deref().unwrap_or_default();
        let value = self.session(flow).unwrap_or_default();
        LimiterDetails::Sampler {
            label: format!("{key}:{value}"),
        }
    }

    fn session<'a>(&self, flow: &Flow<'a, '_>) -> Option<&'a str> {
        flow.labels.get(self.session_key.as_deref()?)
    }
}

impl Decided {
    /// Let through, and nothing was taken.
    const PASSED: Self = Self {
        dropped: false,
        reason: LimiterReason::Unspecified,
        wait: 0,
        hopeless: false,
        remaining: 0.0,
        current: 0.0,
        consumed: 0.0,
        request_id: None,
        looked: false,
        queued: 0,
        overtaken: None,
    };
}

/// Which sessions pass is part of the contract.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash: u32, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

thread_local! {
    static DRAWS: (RandomState, Cell<u64>) = (RandomState::new(), Cell::new(0));
}

/// Evenly from 0 up to, but not including, 1.
fn draw() -> f64 {
    let bits = DRAWS
        .try_with(|(hasher, next)| {
            next.set(next.get().wrapping_add(1));
            hasher.hash_one(next.get())
        })
        // The thread is ending.
        .unwrap_or_else(|_| RandomState::new().hash_one(0));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_agents() {
        let hashes = ["", "a", "foobar"].map(fnv1a);
        assert_eq!(hashes, [2_166_136_261, 3_826_002_220, 3_214_735_720]);
    }

    #[test]
    fn draws_are_even() {
        let low = (0..100_000).filter(|_| draw() < 0.37).count();
        assert!((36_000..38_000).contains(&low), "{low}");
    }
}
