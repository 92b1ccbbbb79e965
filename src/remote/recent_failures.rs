//! Reduces the checks that go to an Agent that fails fast.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tokio::time::Instant;

/// The pause after the first failure. It doubles with each further failure, up to [`MAX_INTERVAL`].
const MIN_INTERVAL: Duration = Duration::from_millis(100);
const MAX_INTERVAL: Duration = Duration::from_secs(1);

/// The failures in a row of one Agent, for the choice among Agents.
///
/// An Agent that returns errors is never busy, so that it would get most flows. From its first
/// failure until its next decision it gets one check per interval while another Agent can decide.
/// This is not the breaker: the Agent answers, and is still asked if no other Agent can be.
#[derive(Debug)]
pub(super) struct RecentFailures {
    /// The number of intervals begun since the last decision.
    intervals: AtomicU32,
    /// When the next retry may start, in microseconds since `begun`.
    due: AtomicU64,
    begun: Instant,
}

impl Default for RecentFailures {
    fn default() -> Self {
        Self {
            intervals: AtomicU32::new(0),
            due: AtomicU64::new(0),
            begun: Instant::now(),
        }
    }
}

impl RecentFailures {
    pub(super) fn is_failing(&self) -> bool {
        self.intervals.load(SeqCst) > 0
    }

    /// Records a decision of the Agent.
    pub(super) fn clear(&self) {
        // Read first: many concurrent decisions would otherwise contend for the cache line.
        if self.is_failing() {
            self.intervals.store(0, SeqCst);
        }
    }

    /// Records a failure. Failures of concurrent checks count once. Returns `true` for the first
    /// failure after a decision.
    pub(super) fn record(&self) -> bool {
        let (now, due) = (self.now(), self.due.load(SeqCst));
        let intervals = self.intervals.load(SeqCst);
        if intervals > 0 && now < due {
            return false;
        }
        let next = now + interval(intervals);
        if self
            .due
            .compare_exchange(due, next, SeqCst, SeqCst)
            .is_err()
        {
            return false;
        }
        self.intervals.fetch_add(1, SeqCst) == 0
    }

    /// Returns `true` at most once per interval while the Agent fails; the caller may then try it.
    /// The next interval is longer unless the retry brings a decision.
    pub(super) fn take_retry(&self) -> bool {
        let intervals = self.intervals.load(SeqCst);
        let (now, due) = (self.now(), self.due.load(SeqCst));
        let next = now + interval(intervals);
        let taken = intervals > 0
            && now >= due
            && self.due.compare_exchange(due, next, SeqCst, SeqCst).is_ok();
        if taken {
            // Fails after a concurrent decision, which has reset the count.
            let _ = self.intervals.compare_exchange(
                intervals,
                intervals.saturating_add(1),
                SeqCst,
                SeqCst,
            );
        }
        taken
    }

    fn now(&self) -> u64 {
        let since = Instant::now().saturating_duration_since(self.begun);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX / 2)
    }
}

fn interval(intervals: u32) -> u64 {
    let interval = MIN_INTERVAL
        .saturating_mul(1 << intervals.min(8))
        .min(MAX_INTERVAL);
    // The cast is lossless: the interval is at most a second.
    interval.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failing_agent_is_retried_once_per_growing_interval() {
        let failures = RecentFailures::default();
        assert!(!failures.is_failing() && !failures.take_retry());
        assert!(failures.record(), "the first");
        assert!(!failures.record(), "a concurrent failure");
        for wait in [100, 200, 400, 800, 1000, 1000] {
            assert!(failures.is_failing() && !failures.take_retry());
            tokio::time::advance(Duration::from_millis(wait - 1)).await;
            assert!(!failures.take_retry(), "{wait} ms are not over");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(failures.take_retry());
            assert!(!failures.record(), "already counted");
        }
        failures.clear();
        assert!(!failures.is_failing() && !failures.take_retry());
        assert!(failures.record(), "the first after a decision");
    }
}
