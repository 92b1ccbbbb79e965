use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tokio::time::Instant;

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
/// A probe was answered: one check may try.
const HALF_OPEN: u8 = 2;
/// That check is under way.
const TRIAL: u8 = 3;

/// When to give up on an Agent, and how often to ask whether it is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BreakerConfig {
    /// Checks in a row without an answer; zero never gives up.
    pub(crate) failures: u32,
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

/// Keeps checks from an Agent that does not answer.
///
/// Open, it lets nothing through; a probe that is answered leaves it half open, for one check to
/// try: an Agent may answer probes and still not decide. Whoever is answered closes it.
#[derive(Debug)]
pub(super) struct Breaker {
    config: BreakerConfig,
    state: AtomicU8,
    failures: AtomicU32,
    /// When the next probe or trial may start, in microseconds since `begun`.
    due: AtomicU64,
    begun: Instant,
}

/// Leave to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) trial: bool,
    /// How many failures had been counted.
    failures: u32,
}

impl Pass {
    const TRIAL: Self = Self {
        trial: true,
        failures: 0,
    };
}

/// What a check that brought no answer says about the Agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// No answer in time.
    Silence,
    /// No connection.
    Refusal,
    /// What broke took every check under way along; it counts once.
    Shared,
}

impl Breaker {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            state: AtomicU8::new(CLOSED),
            failures: AtomicU32::new(0),
            due: AtomicU64::new(0),
            begun: Instant::now(),
        }
    }

    pub(super) const fn probe_interval(&self) -> Duration {
        self.config.probe_interval
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.load(SeqCst) == CLOSED
    }

    pub(super) fn is_open(&self) -> bool {
        self.state.load(SeqCst) == OPEN
    }

    /// Leave to ask as if nothing were the matter.
    pub(super) fn pass(&self) -> Option<Pass> {
        self.is_closed().then(|| Pass {
            trial: false,
            failures: self.failures.load(SeqCst),
        })
    }

    /// Leave for the one check that tries a half-open breaker; to be
    /// [given back](Self::give_back) unless its outcome is reported.
    pub(super) fn trial(&self) -> Option<Pass> {
        let mine = match self.state.load(SeqCst) {
            HALF_OPEN => {
                let mine = self.change(HALF_OPEN, TRIAL);
                if mine {
                    self.put_off();
                }
                mine
            }
            // Not for ever: a check without a limit may never tell.
            TRIAL => self.is_due(),
            _ => false,
        };
        mine.then_some(Pass::TRIAL)
    }

    /// `true`: this answer closed it.
    pub(super) fn answered(&self) -> bool {
        // Read first: many answers at once would otherwise pass one cache line around.
        if self.failures.load(SeqCst) != 0 {
            self.failures.store(0, SeqCst);
        }
        !self.is_closed() && self.state.swap(CLOSED, SeqCst) != CLOSED
    }

    /// `true`: this failure opened it, which was closed.
    pub(super) fn failed(&self, pass: Pass, evidence: Evidence) -> bool {
        if pass.trial {
            self.put_off();
            self.change(TRIAL, OPEN);
            return false;
        }
        let failures = match evidence {
            Evidence::Silence | Evidence::Refusal => {
                self.failures.fetch_add(1, SeqCst).saturating_add(1)
            }
            Evidence::Shared => {
                let next = pass.failures.saturating_add(1);
                let first = self
                    .failures
                    .compare_exchange(pass.failures, next, SeqCst, SeqCst);
                match first {
                    Ok(_) => next,
                    Err(_) => return false,
                }
            }
        };
        if self.config.failures == 0 || failures < self.config.failures || !self.is_closed() {
            return false;
        }
        self.put_off();
        self.change(CLOSED, OPEN)
    }

    /// The trial was given up without an outcome: another may try.
    pub(super) fn give_back(&self) {
        self.change(TRIAL, HALF_OPEN);
    }

    /// A probe was answered. `true`: it was open.
    pub(super) fn probed(&self) -> bool {
        self.change(OPEN, HALF_OPEN)
    }

    /// Whether a probe is due; it is the caller's to make then.
    pub(super) fn wants_probe(&self) -> bool {
        self.is_open() && self.is_due()
    }

    /// `true` once an interval, counted from start to start: what hangs does not put off the next.
    fn is_due(&self) -> bool {
        let (now, due) = (self.now(), self.due.load(SeqCst));
        now >= due
            && self
                .due
                .compare_exchange(due, self.after(now), SeqCst, SeqCst)
                .is_ok()
    }

    fn put_off(&self) {
        self.due.store(self.after(self.now()), SeqCst);
    }

    fn after(&self, now: u64) -> u64 {
        now.saturating_add(micros(self.config.probe_interval))
    }

    fn now(&self) -> u64 {
        micros(Instant::now().saturating_duration_since(self.begun))
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state
            .compare_exchange(from, to, SeqCst, SeqCst)
            .is_ok()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(failures: u32) -> Breaker {
        Breaker::new(BreakerConfig {
            failures,
            ..BreakerConfig::default()
        })
    }

    fn fail(breaker: &Breaker, evidence: Evidence) -> bool {
        let pass = breaker.pass().expect("closed");
        breaker.failed(pass, evidence)
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let breaker = breaker(3);
        for _ in 0..2 {
            assert!(!fail(&breaker, Evidence::Silence));
        }
        assert!(!breaker.answered(), "it was closed");
        for _ in 0..2 {
            assert!(!fail(&breaker, Evidence::Silence));
        }
        assert!(fail(&breaker, Evidence::Silence));
        assert!(breaker.is_open() && breaker.pass().is_none() && breaker.trial().is_none());
    }

    #[test]
    fn a_connection_that_breaks_counts_once_for_all_checks_on_it() {
        let breaker = breaker(2);
        let passes: Vec<_> = (0..64).map(|_| breaker.pass().expect("closed")).collect();
        for pass in passes {
            assert!(!breaker.failed(pass, Evidence::Shared));
        }
        assert!(fail(&breaker, Evidence::Shared), "the next one counts");
    }

    #[test]
    fn zero_never_opens_it() {
        let breaker = breaker(0);
        for _ in 0..100 {
            assert!(!fail(&breaker, Evidence::Silence));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_is_due_once_an_interval() {
        let breaker = breaker(1);
        assert!(!breaker.wants_probe(), "nothing to probe");
        assert!(fail(&breaker, Evidence::Silence));
        for _ in 0..3 {
            assert!(!breaker.wants_probe(), "not yet");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(breaker.wants_probe());
        }
        assert!(!breaker.wants_probe(), "once");
    }

    #[tokio::test(start_paused = true)]
    async fn one_check_tries_what_a_probe_found() {
        let breaker = breaker(1);
        assert!(fail(&breaker, Evidence::Silence));
        assert!(breaker.probed());
        let trial = breaker.trial().expect("the first");
        assert!(breaker.trial().is_none() && breaker.pass().is_none());
        breaker.give_back();
        assert!(breaker.trial().is_some(), "the first was given up");
        assert!(!breaker.failed(trial, Evidence::Silence), "it was no news");
        assert!(breaker.is_open());
        assert!(!breaker.wants_probe(), "a whole interval again");
        assert!(breaker.probed());
        assert!(breaker.trial().is_some());
        assert!(breaker.answered());
        assert!(breaker.pass().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_never_tells_makes_way_for_another() {
        let breaker = breaker(1);
        assert!(fail(&breaker, Evidence::Silence));
        assert!(breaker.probed());
        assert!(breaker.trial().is_some());
        assert!(breaker.trial().is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(breaker.trial().is_some());
        assert!(breaker.trial().is_none());
    }

    #[test]
    fn an_answer_that_comes_late_closes_it() {
        let breaker = breaker(1);
        assert!(fail(&breaker, Evidence::Silence));
        assert!(breaker.answered());
        assert!(breaker.is_closed());
    }
}
