//! Keeps flows away from an Agent that fails fast.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tokio::time::Instant;

/// After the first failure. Doubled after each further one, up to the longest.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);

/// Failures in a row of one Agent, as far as they matter when one is chosen.
///
/// An Agent that answers errors is never busy, so it would get most flows. From its first failure
/// until its next decision it gets one check an interval while another Agent can decide. This is
/// not the breaker: the Agent answers, and it is asked where no other can be.
#[derive(Debug)]
pub(super) struct RecentFailures {
    /// How many intervals have begun since the last decision.
    rounds: AtomicU32,
    /// When it may be tried again, in microseconds since `begun`.
    due: AtomicU64,
    begun: Instant,
}

impl Default for RecentFailures {
    fn default() -> Self {
        Self {
            rounds: AtomicU32::new(0),
            due: AtomicU64::new(0),
            begun: Instant::now(),
        }
    }
}

impl RecentFailures {
    pub(super) fn is_failing(&self) -> bool {
        self.rounds.load(SeqCst) > 0
    }

    /// The Agent decided.
    pub(super) fn clear(&self) {
        // Read first: many decisions at once would otherwise pass one cache line around.
        if self.is_failing() {
            self.rounds.store(0, SeqCst);
        }
    }

    /// Counts a failure. Those of checks that were under way together count once. Returns `true`
    /// for the first one after a decision.
    pub(super) fn count(&self) -> bool {
        let (now, due) = (self.now(), self.due.load(SeqCst));
        let rounds = self.rounds.load(SeqCst);
        if rounds > 0 && now < due {
            return false;
        }
        let next = now + interval(rounds);
        if self
            .due
            .compare_exchange(due, next, SeqCst, SeqCst)
            .is_err()
        {
            return false;
        }
        self.rounds.fetch_add(1, SeqCst) == 0
    }

    /// Returns `true` once an interval while the Agent fails: the caller may try it. Unless that
    /// brings a decision, the next interval is longer.
    pub(super) fn may_try(&self) -> bool {
        let rounds = self.rounds.load(SeqCst);
        let (now, due) = (self.now(), self.due.load(SeqCst));
        let next = now + interval(rounds);
        let mine = rounds > 0
            && now >= due
            && self.due.compare_exchange(due, next, SeqCst, SeqCst).is_ok();
        if mine {
            // Not after a decision that came meanwhile.
            let _ = self
                .rounds
                .compare_exchange(rounds, rounds.saturating_add(1), SeqCst, SeqCst);
        }
        mine
    }

    fn now(&self) -> u64 {
        let since = Instant::now().saturating_duration_since(self.begun);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX / 2)
    }
}

fn interval(rounds: u32) -> u64 {
    let interval = SHORTEST.saturating_mul(1 << rounds.min(8)).min(LONGEST);
    // At most a second.
    interval.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failing_agent_is_tried_once_an_interval_that_grows() {
        let failures = RecentFailures::default();
        assert!(!failures.is_failing() && !failures.may_try());
        assert!(failures.count(), "the first");
        assert!(!failures.count(), "of the same moment");
        for wait in [100, 200, 400, 800, 1000, 1000] {
            assert!(failures.is_failing() && !failures.may_try());
            tokio::time::advance(Duration::from_millis(wait - 1)).await;
            assert!(!failures.may_try(), "{wait} ms are not over");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(failures.may_try());
            assert!(!failures.count(), "no news");
        }
        failures.clear();
        assert!(!failures.is_failing() && !failures.may_try());
        assert!(failures.count(), "the first after a decision");
    }
}
