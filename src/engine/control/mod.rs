//! What changes while the engine runs: the circuits of the policies.
//!
//! A circuit ticks each `evaluation_interval`, beginning when its policy comes into force, and
//! what it computes is handed to the components that decide. Nothing runs in the background:
//! ticks that are due are made up for by the next flow that is decided or ends, each with the time
//! it was due at. A [`SignalSource`] is asked for the newest of them only: the ticks before it hold
//! the last answer, because a source knows what is so now, and not what was so then. So a circuit
//! follows whatever clock the engine has, and costs nothing without traffic. A flow that meets an
//! engine without circuits pays for one comparison. After a
//! long silence a flow makes up for [`TURN`] ticks at most and leaves the rest to those after it;
//! of a silence of more than [`BACKLOG`] ticks the beginning is forgotten.

mod circuit;
mod component;
mod core;
mod decider;
mod driven;
mod gradient;
mod integrator;
mod latency;
mod logic;
mod observed;
mod output;
mod range;
#[cfg(feature = "server")]
mod readings;
mod running;
mod signal_generator;
mod source;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ahash::RandomState;

use super::clock::Nanos;
use crate::policy::Signal;

pub(crate) use self::latency::{WorkloadLatency, WorkloadTokens};
pub(crate) use self::observed::Demand;
pub use self::output::{ControlLoop, LoopOutput};
#[cfg(feature = "server")]
pub(crate) use self::readings::SignalReadings;
pub(crate) use self::running::Loop;
pub use self::source::SignalSource;

/// Ticks that one flow makes up for; they take some hundred microseconds.
const TURN: u64 = 1024;
/// Ticks that are made up for at all: with the usual second, those of twelve days.
const BACKLOG: u64 = 1 << 20;

/// A component that a circuit drives.
pub(crate) trait Actuator: fmt::Debug + Send + Sync {
    /// Takes over what the circuit says. Called only when that has changed, but for decisions
    /// of load schedulers.
    fn apply(&self, setting: Setting, now: Nanos);

    /// Returns the tokens granted and refused since the last call; zeros if nothing is counted.
    fn take_demand(&self) -> Demand;

    /// What its workloads' flows cost by their latency; `None` where nobody measures.
    fn workload_tokens(&self, now: Nanos) -> Option<WorkloadTokens>;
}

/// What a circuit says to a component. Signals are as the circuit has them, invalid ones too: what
/// follows from those is the component's to know.
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

/// What a load scheduler hears every ten seconds.
#[derive(Clone, Debug)]
pub(crate) struct LoadDecision {
    /// Zero or more.
    pub(crate) load_multiplier: f64,
    pub(crate) pass_through: bool,
    /// From then on everything passes, unless there is another decision.
    pub(crate) valid_until: Nanos,
    /// Replaces what was estimated before; empty where latencies do not count.
    pub(crate) tokens: WorkloadTokens,
}

/// All circuits of the policies in force.
#[derive(Debug)]
pub(crate) struct Control<A> {
    loops: Box<[Arc<Loop<A>>]>,
    /// The index of each policy's loop in `loops`.
    by_policy: HashMap<Arc<str>, usize, RandomState>,
    /// When the first of them ticks next; never where there is none.
    next: AtomicI64,
    source: Option<Arc<dyn SignalSource>>,
}

impl<A: Actuator> Control<A> {
    pub(crate) fn new(loops: Vec<Arc<Loop<A>>>, source: Option<Arc<dyn SignalSource>>) -> Self {
        let next = if loops.is_empty() {
            Nanos::MAX
        } else {
            Nanos::MIN
        };
        let names = loops.iter().map(|one| Arc::clone(one.policy()));
        Self {
            by_policy: names.zip(0..).collect(),
            loops: loops.into(),
            next: AtomicI64::new(next),
            source,
        }
    }

    /// There is something that needs to know the time.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        !self.loops.is_empty()
    }

    /// The loop of a policy.
    pub(crate) fn of(&self, policy: &str) -> Option<&Arc<Loop<A>>> {
        self.loops.get(*self.by_policy.get(policy)?)
    }

    /// What the loops have told their components last.
    pub(crate) fn outputs(&self) -> Vec<ControlLoop> {
        self.loops.iter().flat_map(|one| one.outputs()).collect()
    }

    /// Returns what the signals of all circuits were so far.
    #[cfg(feature = "server")]
    pub(crate) fn readings(&self) -> Vec<SignalReadings> {
        self.loops.iter().flat_map(|one| one.readings()).collect()
    }

    /// Ticks what is due.
    #[inline(always)]
    pub(crate) fn catch_up(&self, now: Nanos) {
        // Relaxed: whoever is early or late by a tick is right, too.
        if now >= self.next.load(Ordering::Relaxed) {
            self.tick(now);
        }
    }

    #[cold]
    #[inline(never)]
    fn tick(&self, now: Nanos) {
        let mut next = Nanos::MAX;
        for one in &self.loops {
            next = next.min(one.catch_up(now, self.source.as_deref()));
        }
        self.next.store(next, Ordering::Relaxed);
    }
}
