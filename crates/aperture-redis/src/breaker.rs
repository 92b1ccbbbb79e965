//! Gives the server up when it is late or away, so that no flow waits for it in vain.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::shared::lock;

/// So many failures in a row, without an answer in time between them, give the server up ...
const FAILURES: u32 = 5;
/// ... if they cover at least so many deadlines. A short stall makes many operations late at once.
const DEADLINES: u32 = 5;
/// The time before the first probe.
const FIRST_PROBE: Duration = Duration::from_secs(1);
/// The longest time between two probes, before jitter.
const LAST_PROBE: Duration = Duration::from_secs(4);

/// Records whether the server answers in time.
#[derive(Debug)]
pub(crate) struct Breaker {
    available: AtomicBool,
    /// The time for which failures must go on.
    evidence: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// The first failure in a row.
    since: Option<Instant>,
}

impl Breaker {
    pub(crate) fn new(deadline: Duration) -> Self {
        Self {
            available: AtomicBool::new(true),
            evidence: deadline.saturating_mul(DEADLINES),
            state: Mutex::default(),
        }
    }

    pub(crate) fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    /// Records an answer that came in time.
    pub(crate) fn record_answer(&self) {
        *lock(&self.state) = State::default();
    }

    /// Records that an answer is late, or that there is no connection. Returns true if the server is
    /// given up with it.
    pub(crate) fn record_failure(&self, now: Instant) -> bool {
        let mut state = lock(&self.state);
        state.failures = state.failures.saturating_add(1);
        let since = *state.since.get_or_insert(now);
        state.failures >= FAILURES
            && now.saturating_duration_since(since) >= self.evidence
            && self.available.swap(false, Ordering::Relaxed)
    }

    /// Records that a probe was answered in time. Returns the time since the first failure if the
    /// server was given up.
    pub(crate) fn record_return(&self, now: Instant) -> Option<Duration> {
        let state = std::mem::take(&mut *lock(&self.state));
        if self.available.swap(true, Ordering::Relaxed) {
            return None;
        }
        Some(now.saturating_duration_since(state.since.unwrap_or(now)))
    }
}

/// When a server that was given up is probed.
#[derive(Debug, Default)]
pub(crate) struct ProbeTimer {
    probes: u32,
}

impl ProbeTimer {
    /// Returns the time until the next probe: at least a second, and up to half longer by chance, so
    /// that nodes that lost the server together do not return together. `random` is from 0 to 1.
    pub(crate) fn next_wait(&mut self, random: f64) -> Duration {
        let wait = FIRST_PROBE
            .saturating_mul(1 << self.probes.min(8))
            .min(LAST_PROBE);
        self.probes = self.probes.saturating_add(1);
        wait.mul_f64(1.0 + random.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_millis(20);

    #[test]
    fn a_short_stall_does_not_give_the_server_up_and_a_long_one_does_once() {
        let breaker = Breaker::new(DEADLINE);
        let start = Instant::now();
        for _ in 0..100 {
            assert!(!breaker.record_failure(start));
        }
        breaker.record_answer();
        for _ in 0..FAILURES - 1 {
            assert!(!breaker.record_failure(start));
        }
        assert!(breaker.is_available());
        assert!(breaker.record_failure(start + DEADLINE * DEADLINES));
        assert!(!breaker.is_available());
        assert!(!breaker.record_failure(start + DEADLINE * DEADLINES));
        let away = breaker.record_return(start + Duration::from_secs(2));
        assert_eq!(away, Some(Duration::from_secs(2)));
        assert!(breaker.is_available());
        assert_eq!(breaker.record_return(start), None);
    }

    #[test]
    fn probes_are_a_second_to_six_apart() {
        for random in [0.0, 0.3, 1.0] {
            let mut timer = ProbeTimer::default();
            let mut previous = Duration::ZERO;
            for _ in 0..20 {
                let wait = timer.next_wait(random);
                assert!(wait >= FIRST_PROBE.max(previous) && wait <= LAST_PROBE * 3 / 2);
                previous = wait;
            }
        }
    }
}
