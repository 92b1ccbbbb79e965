//! The `sampler`: accepts a percentage of the flows, always the same sessions.

use std::cell::Cell;
use std::sync::Arc;

use ahash::RandomState;

use super::Limiter;
use crate::engine::atomic_signal::AtomicSignal;
use crate::engine::clock::{DecisionTime, Nanos};
use crate::engine::component::{ComponentContext, FromPolicy, PolicyComponent, ReportedKind};
use crate::engine::control::{Actuator, Setting};
use crate::engine::decision::{ComponentDecision, DecisionStep, DecisionWithSlot};
use crate::engine::engine_flow::EngineFlow;
use crate::policy::{self, ComponentKind};

/// One sampler of a policy, or the sampler of a load ramp.
#[derive(Debug)]
pub(crate) struct Sampler {
    session_key: Option<Arc<str>>,
    pass_through: Vec<Arc<str>>,
    denied_code: i32,
    ramp: bool,
    step: DecisionStep,
    /// Never NaN.
    percentage: AtomicSignal,
}

impl Sampler {
    /// Sets the value of the signal. With an invalid one, a sampler accepts all flows and a ramp
    /// none.
    fn set_percentage(&self, percentage: f64) {
        let invalid = if self.ramp { 0.0 } else { 100.0 };
        self.percentage.set(if percentage.is_nan() {
            invalid
        } else {
            percentage
        });
    }

    /// Returns the session of a flow, by which it always gets the same decision.
    fn session<'a>(&self, flow: &EngineFlow<'a, '_>) -> Option<&'a str> {
        flow.labels.get(self.session_key.as_deref()?)
    }
}

impl FromPolicy for Sampler {
    type Spec = policy::Sampler;

    fn spec(kind: &ComponentKind) -> Option<&Self::Spec> {
        match kind {
            ComponentKind::Sampler(spec) => Some(spec),
            _ => None,
        }
    }

    /// Creates a sampler. A ramp decides about flows in ramp mode only, unless `upstream_ramp_mode`
    /// is set: an Agent treats it as a common sampler.
    fn new(spec: &Self::Spec, context: &ComponentContext) -> Option<Self> {
        let step = match spec.ramp_mode && !context.upstream_ramp_mode {
            true => DecisionStep::Ramps,
            false => DecisionStep::Samplers,
        };
        let sampler = Self {
            session_key: spec.session_label_key.clone(),
            pass_through: spec.pass_through_label_values.clone(),
            denied_code: spec.denied_response_status_code,
            ramp: spec.ramp_mode,
            step,
            percentage: AtomicSignal::new(0.0),
        };
        // On an Agent, a port that is not wired never delivers a signal.
        if let Some(port) = spec.accept_percentage {
            sampler.set_percentage(port.initial());
        }
        Some(sampler)
    }

    /// Returns the sampler of a changed policy. The last value from a circuit stays in force until
    /// the circuit sends the next one.
    fn successor(&self, spec: &Self::Spec, context: &ComponentContext) -> Option<Self> {
        let next = Self::new(spec, context)?;
        if let Some(policy::Port::Changing(_)) = spec.accept_percentage {
            next.percentage.set(self.percentage.get());
        }
        Some(next)
    }

    /// A sampler has no state but its percentage.
    fn take_over(&self, _: &Self, _: &Self::Spec, _: &ComponentContext, _: Nanos) {}
}

impl Limiter for Sampler {
    #[inline(always)]
    fn decide(&self, flow: &EngineFlow<'_, '_>, _: &DecisionTime<'_>) -> DecisionWithSlot {
        let session = self.session(flow);
        let value = session.unwrap_or_default();
        let accept = self.percentage.get() / 100.0;
        let passes = self.pass_through.iter().any(|one| **one == *value)
            || match session {
                Some(value) => f64::from(fnv1a(value)) / f64::from(u32::MAX) <= accept,
                None => draw() <= accept,
            };
        DecisionWithSlot::from(ComponentDecision {
            dropped: !passes,
            ..ComponentDecision::ACCEPTED
        })
    }
}

impl PolicyComponent for Sampler {
    fn reported_kind(&self) -> ReportedKind {
        ReportedKind::Sampler
    }

    fn step(&self) -> DecisionStep {
        self.step
    }

    fn denied_code(&self) -> i32 {
        self.denied_code
    }

    fn label_key(&self) -> Option<&str> {
        self.session_key.as_deref()
    }
}

impl Actuator for Sampler {
    fn apply(&self, setting: Setting, _: Nanos) -> bool {
        let Setting::AcceptPercentage(percentage) = setting else {
            return false;
        };
        self.set_percentage(percentage);
        true
    }
}

/// Computes the 32-bit FNV-1a hash. It decides which sessions pass, so it is part of the contract.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash: u32, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

thread_local! {
    static DRAWS: (RandomState, Cell<u64>) = (RandomState::new(), Cell::new(0));
}

/// Returns a uniformly distributed number from 0 up to, but not including, 1.
fn draw() -> f64 {
    let bits = DRAWS
        .try_with(|(hasher, next)| {
            next.set(next.get().wrapping_add(1));
            hasher.hash_one(next.get())
        })
        // Thread-local values are gone while the thread ends.
        .unwrap_or_else(|_| RandomState::new().hash_one(0));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_equals_that_of_the_agent() {
        let hashes = ["", "a", "foobar"].map(fnv1a);
        assert_eq!(hashes, [2_166_136_261, 3_826_002_220, 3_214_735_720]);
    }

    #[test]
    fn draws_are_uniform() {
        let low = (0..100_000).filter(|_| draw() < 0.37).count();
        assert!((36_000..38_000).contains(&low), "{low}");
    }
}
