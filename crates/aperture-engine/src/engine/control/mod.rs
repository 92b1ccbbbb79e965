//! Control loops: the circuits of the policies, evaluated while the engine runs.
//!
//! A circuit ticks every `evaluation_interval`, beginning when its policy comes into force, and its
//! signals are applied to the components that decide. No background task is needed: the next flow
//! that is decided or ends evaluates the ticks that are due, each with the time it was due at. Only
//! the newest of them queries a [`SignalSource`]; the ticks before it hold the last answer, because
//! a source returns the current value, not a past one. So a circuit follows whatever clock the
//! engine has, and costs nothing without traffic. A flow in an engine without circuits pays for one
//! comparison. After a long silence one flow evaluates at most [`MAX_TICKS_PER_CALL`] ticks and
//! leaves the rest to later flows; of a silence of more than [`MAX_BACKLOG_TICKS`] ticks the
//! beginning is skipped.

mod circuit;
mod decider;
mod driven_component;
mod gradient;
mod integrator;
mod logic;
mod loop_state;
mod observed;
mod output;
mod policy_loop;
mod range;
mod readings;
mod signal_generator;
mod signal_source;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ahash::RandomState;

use super::clock::Nanos;
use super::workload_latency::WorkloadTokens;
use crate::policy::Signal;

pub(crate) use self::observed::Demand;
pub use self::output::{ControlLoop, LoopOutput};
pub(crate) use self::policy_loop::PolicyLoop;
pub use self::readings::SignalReadings;
pub use self::signal_source::SignalSource;

/// The maximum number of ticks that one flow evaluates; they take some hundred microseconds.
const MAX_TICKS_PER_CALL: u64 = 1024;
/// The maximum number of overdue ticks that are evaluated: about twelve days of them with the usual
/// interval of a second.
const MAX_BACKLOG_TICKS: u64 = 1 << 20;

/// A component that a circuit drives.
pub(crate) trait Actuator: fmt::Debug + Send + Sync {
    /// Applies a setting of the circuit. Called only when the setting has changed, except for
    /// decisions of load schedulers. Returns false for a setting of another kind of component.
    fn apply(&self, setting: Setting, now: Nanos) -> bool;

    /// Returns the tokens granted and rejected since the last call; zeros if the component does not
    /// count them.
    fn take_demand(&self) -> Demand {
        Demand::default()
    }

    /// Returns the tokens of the component's workloads, derived from their latency; `None` if the
    /// component does not measure it.
    fn workload_tokens(&self, _now: Nanos) -> Option<WorkloadTokens> {
        None
    }
}

/// A setting that a circuit applies to a component. Signals may be invalid; the component defines
/// the effect of an invalid signal.
#[derive(Clone, Debug)]
pub(crate) enum Setting {
    Bucket {
        capacity: Signal,
        fill: Signal,
        pass_through: Signal,
    },
    Slots {
        max_concurrency: Signal,
        pass_through: Signal,
    },
    AcceptPercentage(Signal),
    Load(LoadDecision),
}

/// The decision that a load scheduler gets every ten seconds.
#[derive(Clone, Debug)]
pub(crate) struct LoadDecision {
    /// Zero or more.
    pub(crate) load_multiplier: f64,
    pub(crate) pass_through: bool,
    /// The time after which everything passes, unless there is a newer decision; `None` means
    /// never.
    pub(crate) valid_until: Option<Nanos>,
    /// Replaces earlier estimates; empty if the policy does not derive tokens from latency, and
    /// `None` to keep the estimates.
    pub(crate) tokens: Option<WorkloadTokens>,
}

/// The control loops of all policies in force.
#[derive(Debug)]
pub(crate) struct Control<A> {
    loops: Box<[Arc<PolicyLoop<A>>]>,
    /// The index of each policy's loop in `loops`.
    by_policy: HashMap<Arc<str>, usize, RandomState>,
    /// The time of the earliest next tick; `Nanos::MAX` without loops.
    next_tick: AtomicI64,
    source: Option<Arc<dyn SignalSource>>,
}

impl<A: Actuator> Control<A> {
    pub(crate) fn new(
        loops: Vec<Arc<PolicyLoop<A>>>,
        source: Option<Arc<dyn SignalSource>>,
    ) -> Self {
        let next = if loops.is_empty() {
            Nanos::MAX
        } else {
            Nanos::MIN
        };
        let names = loops
            .iter()
            .map(|control_loop| Arc::clone(control_loop.policy()));
        Self {
            by_policy: names.zip(0..).collect(),
            loops: loops.into(),
            next_tick: AtomicI64::new(next),
            source,
        }
    }

    /// Returns true if any loop needs to be evaluated.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        !self.loops.is_empty()
    }

    /// Returns the loop of a policy.
    pub(crate) fn loop_of(&self, policy: &str) -> Option<&Arc<PolicyLoop<A>>> {
        self.loops.get(*self.by_policy.get(policy)?)
    }

    /// Returns the settings that the loops last applied to their components.
    pub(crate) fn outputs(&self) -> Vec<ControlLoop> {
        self.loops
            .iter()
            .flat_map(|control_loop| control_loop.outputs())
            .collect()
    }

    /// Returns the readings of the signals of all circuits.
    pub(crate) fn readings(&self) -> Vec<SignalReadings> {
        self.loops
            .iter()
            .flat_map(|control_loop| control_loop.readings())
            .collect()
    }

    /// Evaluates the ticks that are due.
    #[inline(always)]
    pub(crate) fn catch_up(&self, now: Nanos) {
        // Relaxed suffices: evaluating a tick slightly early or late is correct too.
        if now >= self.next_tick.load(Ordering::Relaxed) {
            self.tick(now);
        }
    }

    #[cold]
    #[inline(never)]
    fn tick(&self, now: Nanos) {
        let mut next = Nanos::MAX;
        for control_loop in &self.loops {
            next = next.min(control_loop.catch_up(now, self.source.as_deref()));
        }
        self.next_tick.store(next, Ordering::Relaxed);
    }
}
