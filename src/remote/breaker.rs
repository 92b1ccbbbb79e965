//! Decides when an Agent is given up: after failed checks, and only if a health probe fails too.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The shortest time between two probes of one Agent.
const MIN_INTERVAL: Duration = Duration::from_millis(1);

/// The longest time between two probes of one Agent. It is finite, so that no Agent is given up for
/// good.
const MAX_INTERVAL: Duration = Duration::from_secs(60 * 60 * 24);

/// The longest time between two confirmation probes of an Agent whose checks fail.
const MAX_CONFIRMATION_PAUSE: Duration = Duration::from_secs(1);

/// A confirmation probe that has not ended after this time runs in a stalled runtime. Another one
/// may then start.
const MAX_CONFIRMATION_TIME: Duration = Duration::from_secs(10);

/// When an Agent is given up, and how often it is probed until it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BreakerConfig {
    /// Checks in a row without an answer after which the Agent is suspected. With zero, it is never
    /// given up.
    pub(crate) failures: u32,
    /// Clamped to the range from a millisecond to a day.
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

/// Stops checks to an Agent that does not answer.
///
/// Failed checks only make the Agent suspected: they may wait in a scheduler's queue, have short
/// timeouts, or belong to a process that stalled. A [`Suspicion`] is confirmed by a health probe,
/// and only a probe that fails opens the breaker. While the breaker is open, only an answered probe
/// closes it.
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
    /// Counts suspicions and their conclusions. Only the first conclusion about the latest
    /// suspicion has an effect.
    suspicions: u64,
    /// No probe starts before this time. `None` means that a probe may start now.
    due: Option<Instant>,
    /// Probes in a row that failed while the breaker was open.
    missed: u32,
    /// When the breaker opened last.
    opened: Instant,
}

/// Permission to send a check to the Agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Permit {
    /// The number of failures in a row when the permission was given.
    failures: u32,
}

/// Enough checks failed in a row that a confirmation probe must decide about the Agent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Suspicion {
    number: u64,
}

/// How a check failed, as far as it concerns the state of the Agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// No answer came in time.
    NoAnswer,
    /// No connection could be made.
    NoConnection,
    /// The connection broke and failed all checks in flight on it. Together they count once.
    BrokenConnection,
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
        self.config.probe_interval.clamp(MIN_INTERVAL, MAX_INTERVAL)
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(SeqCst)
    }

    pub(super) fn is_closed(&self) -> bool {
        !self.is_open()
    }

    /// Returns permission to send a check, unless the breaker is open.
    pub(super) fn permit(&self) -> Option<Permit> {
        (!self.is_open()).then(|| Permit {
            failures: self.failures.load(SeqCst),
        })
    }

    /// Records an answered check. An open breaker stays open, but its next probe is due at once.
    pub(super) fn record_answer(&self) {
        // The atomics are read first: most answers change nothing and need no lock.
        if self.failures.load(SeqCst) == 0 && !self.is_open() {
            return;
        }
        let mut state = self.state();
        self.failures.store(0, SeqCst);
        if self.is_open() {
            state.due = None;
        }
    }

    /// Counts a failed check. Returns a suspicion if a confirmation probe must start.
    pub(super) fn record_failure(&self, permit: Permit, kind: FailureKind) -> Option<Suspicion> {
        let mut state = self.state();
        let failures = self.failures.load(SeqCst);
        if kind == FailureKind::BrokenConnection && failures != permit.failures {
            return None;
        }
        let failures = failures.saturating_add(1);
        self.failures.store(failures, SeqCst);
        if !self.is_suspicious(failures)
            || self.is_open()
            || !state.take_turn(MAX_CONFIRMATION_TIME)
        {
            return None;
        }
        state.suspicions += 1;
        Some(Suspicion {
            number: state.suspicions,
        })
    }

    /// Returns `true` if enough checks failed in a row that the Agent may be away.
    pub(super) fn is_suspected(&self) -> bool {
        self.is_suspicious(self.failures.load(SeqCst))
    }

    const fn is_suspicious(&self, failures: u32) -> bool {
        self.config.failures != 0 && failures >= self.config.failures
    }

    /// Records an answered probe. Returns how long the breaker was open, or `None` if it was
    /// closed.
    pub(super) fn record_probe_answer(&self) -> Option<Duration> {
        let mut state = self.state();
        self.failures.store(0, SeqCst);
        state.missed = 0;
        if !self.open.swap(false, SeqCst) {
            return None;
        }
        state.due = None;
        Some(Instant::now().saturating_duration_since(state.opened))
    }

    /// Concludes `suspicion` with an Agent that answered its confirmation probe. The next
    /// confirmation probe needs as many failures again, and a pause.
    pub(super) fn confirm_alive(&self, suspicion: &Suspicion) {
        let mut state = self.state();
        if state.conclude(suspicion) {
            state.postpone(self.probe_interval().min(MAX_CONFIRMATION_PAUSE));
        }
    }

    /// Concludes `suspicion` without a result: the next failure may start another confirmation
    /// probe.
    pub(super) fn abandon_suspicion(&self, suspicion: &Suspicion) {
        let mut state = self.state();
        if state.conclude(suspicion) {
            state.due = None;
        }
    }

    /// Concludes `suspicion` with a confirmation probe that failed. Returns `true` if this opened
    /// the breaker. The breaker stays closed if a check was answered meanwhile, and an outdated
    /// suspicion has no effect.
    pub(super) fn confirm_away(&self, suspicion: &Suspicion) -> bool {
        let mut state = self.state();
        if !state.conclude(suspicion) {
            return false;
        }
        if !self.is_suspicious(self.failures.load(SeqCst)) {
            state.postpone(self.probe_interval().min(MAX_CONFIRMATION_PAUSE));
            return false;
        }
        state.postpone(self.probe_interval());
        state.opened = Instant::now();
        !self.open.swap(true, SeqCst)
    }

    /// Returns `true` if the breaker is open and a probe is due. The caller must then start it.
    pub(super) fn take_due_probe(&self) -> bool {
        self.is_open() && self.state().take_turn(self.probe_interval())
    }

    /// Records a failed probe while the breaker is open.
    pub(super) fn record_missed_probe(&self) {
        let mut state = self.state();
        state.missed = state.missed.saturating_add(1);
    }

    /// Returns the timeout of the next probe. It doubles from `shortest` up to `longest` while
    /// probes fail, so that an Agent behind a slow network is reached too.
    pub(super) fn probe_timeout(&self, shortest: Duration, longest: Duration) -> Duration {
        let doublings = self.state().missed.min(16);
        let timeout = shortest.saturating_mul(1 << doublings);
        timeout.min(longest).max(shortest)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Concludes a suspicion. Returns `false` if it was concluded before or a newer one exists.
    const fn conclude(&mut self, suspicion: &Suspicion) -> bool {
        let is_current = self.suspicions == suspicion.number;
        if is_current {
            self.suspicions += 1;
        }
        is_current
    }

    /// Returns `true` at most once per `interval`, counted from start to start, so that a probe
    /// that hangs does not delay the next one. The intervals in this file are far too short to
    /// overflow the clock.
    fn take_turn(&mut self, interval: Duration) -> bool {
        let now = Instant::now();
        let due = self.due.is_none_or(|due| now >= due);
        if due {
            self.due = Some(now + interval);
        }
        due
    }

    fn postpone(&mut self, pause: Duration) {
        self.due = Some(Instant::now() + pause);
    }
}

#[cfg(test)]
mod tests;
