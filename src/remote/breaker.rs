//! Decides when an Agent is given up: after failed checks, and only when a health probe fails too.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The shortest time between two probes of one Agent.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// The longest time between two probes of one Agent: an Agent is never given up for good.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60 * 60 * 24);

/// The longest time between two examinations of an Agent whose checks fail.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// An examination that has not ended by then runs in a runtime that stands still; another may
/// start.
const LONGEST_EXAMINATION: Duration = Duration::from_secs(10);

/// When to give up an Agent, and how often to ask whether it is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BreakerConfig {
    /// Checks in a row without an answer; zero never gives up.
    pub(crate) failures: u32,
    /// Less than a millisecond counts as a millisecond, more than a day as a day.
    pub(crate) probe_interval: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 5,
            probe_interval: Duration::from_secs(1),
        }
    }
}

/// Keeps checks from an Agent that is dead.
///
/// Checks that fail only raise a suspicion: they may wait in a scheduler's queue, have short
/// timeouts, or belong to a process that stood still. A [`Suspicion`] is examined by a health
/// probe, and only a probe that fails opens the breaker. While it is open, a probe that is answered
/// closes it, and nothing else does.
#[derive(Debug)]
pub(super) struct Breaker {
    config: BreakerConfig,
    /// Read without the lock, written with it.
    open: AtomicBool,
    /// Checks in a row without an answer. Read without the lock, written with it.
    failures: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Counts suspicions and verdicts: only the first verdict on the last suspicion counts.
    suspicions: u64,
    /// Before this time no probe starts; `None` is now.
    due: Option<Instant>,
    /// Probes in a row that failed while the breaker was open.
    missed: u32,
    /// When the breaker opened last.
    opened: Instant,
}

/// Permission to ask the Agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// How many failures had been counted.
    failures: u32,
}

/// So many checks failed in a row that the Agent is to be examined.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Suspicion {
    number: u64,
}

/// What a check that brought no answer says about the Agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// No answer in time.
    Silence,
    /// No connection.
    Refusal,
    /// A connection broke, and failed all checks under way on it; it counts once.
    Shared,
}

impl Breaker {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            open: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            state: Mutex::new(State {
                suspicions: 0,
                due: None,
                missed: 0,
                opened: Instant::now(),
            }),
        }
    }

    /// Returns the time between two probes, from start to start.
    pub(super) fn probe_interval(&self) -> Duration {
        self.config
            .probe_interval
            .clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL)
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(SeqCst)
    }

    pub(super) fn is_closed(&self) -> bool {
        !self.is_open()
    }

    /// Gives permission to ask, unless the breaker is open.
    pub(super) fn pass(&self) -> Option<Pass> {
        (!self.is_open()).then(|| Pass {
            failures: self.failures.load(SeqCst),
        })
    }

    /// Records an answered check. An open breaker stays open, but the next probe is due now.
    pub(super) fn answered(&self) {
        // Reads first: most answers change nothing, and take no lock.
        if self.failures.load(SeqCst) == 0 && !self.is_open() {
            return;
        }
        let mut state = self.state();
        self.failures.store(0, SeqCst);
        if self.is_open() {
            state.due = None;
        }
    }

    /// Counts a failed check; returns a suspicion when the Agent is to be examined.
    pub(super) fn failed(&self, pass: Pass, evidence: Evidence) -> Option<Suspicion> {
        let mut state = self.state();
        let failures = self.failures.load(SeqCst);
        if evidence == Evidence::Shared && failures != pass.failures {
            return None;
        }
        let failures = failures.saturating_add(1);
        self.failures.store(failures, SeqCst);
        if !self.is_suspicious(failures) || self.is_open() || !state.is_due(LONGEST_EXAMINATION) {
            return None;
        }
        state.suspicions += 1;
        Some(Suspicion {
            number: state.suspicions,
        })
    }

    /// Tells whether so many checks failed in a row that the Agent may be away.
    pub(super) fn is_suspected(&self) -> bool {
        self.is_suspicious(self.failures.load(SeqCst))
    }

    const fn is_suspicious(&self, failures: u32) -> bool {
        self.config.failures != 0 && failures >= self.config.failures
    }

    /// Records an answered probe. Returns how long the breaker was open, if it was.
    pub(super) fn alive(&self) -> Option<Duration> {
        let mut state = self.state();
        self.failures.store(0, SeqCst);
        state.missed = 0;
        if !self.open.swap(false, SeqCst) {
            return None;
        }
        state.due = None;
        Some(Instant::now().saturating_duration_since(state.opened))
    }

    /// The examination of `suspicion` found the Agent alive: another one takes as many failures
    /// again, and a pause.
    pub(super) fn acquit(&self, suspicion: &Suspicion) {
        let mut state = self.state();
        if state.settle(suspicion) {
            state.put_off(self.probe_interval().min(LONGEST_PAUSE));
        }
    }

    /// The examination of `suspicion` found nothing: the next failure may start another.
    pub(super) fn abandon(&self, suspicion: &Suspicion) {
        let mut state = self.state();
        if state.settle(suspicion) {
            state.due = None;
        }
    }

    /// The probe failed too. Returns `true` when that opened the breaker. It stays closed if a check
    /// was answered meanwhile, and an outdated examination has no say.
    pub(super) fn condemn(&self, suspicion: &Suspicion) -> bool {
        let mut state = self.state();
        if !state.settle(suspicion) {
            return false;
        }
        if !self.is_suspicious(self.failures.load(SeqCst)) {
            state.put_off(self.probe_interval().min(LONGEST_PAUSE));
            return false;
        }
        state.put_off(self.probe_interval());
        state.opened = Instant::now();
        !self.open.swap(true, SeqCst)
    }

    /// Returns `true` when the Agent is given up and a probe is due, which the caller then makes.
    pub(super) fn wants_probe(&self) -> bool {
        self.is_open() && self.state().is_due(self.probe_interval())
    }

    /// A probe of an Agent that is given up failed.
    pub(super) fn missed(&self) {
        let mut state = self.state();
        state.missed = state.missed.saturating_add(1);
    }

    /// Returns how long the next probe may take. It doubles from `shortest` to `longest` while
    /// probes fail, so that an Agent behind a slow network is found too.
    pub(super) fn patience(&self, shortest: Duration, longest: Duration) -> Duration {
        let doublings = self.state().missed.min(16);
        let patience = shortest.saturating_mul(1 << doublings);
        patience.min(longest).max(shortest)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Ends an examination. Returns `false` when it has a verdict already, or another has started.
    const fn settle(&mut self, suspicion: &Suspicion) -> bool {
        let mine = self.suspicions == suspicion.number;
        if mine {
            self.suspicions += 1;
        }
        mine
    }

    /// Returns `true` once in `interval`, counted from start to start: a probe that hangs does not
    /// put off the next. The intervals here are far too short to overflow the clock.
    fn is_due(&mut self, interval: Duration) -> bool {
        let now = Instant::now();
        let due = self.due.is_none_or(|due| now >= due);
        if due {
            self.due = Some(now + interval);
        }
        due
    }

    fn put_off(&mut self, pause: Duration) {
        self.due = Some(Instant::now() + pause);
    }
}

#[cfg(test)]
mod tests;
