//! Counts flows whose response came too late, and logs their number at most once a minute.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::flow::{FlowError, WithCauses};

/// The shortest time between two log lines.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Counts the late flows of one client. On drop, it logs those that are not logged yet.
#[derive(Debug)]
pub(super) struct LateFlows {
    total: AtomicU64,
    /// The number of late flows since the last log line.
    unlogged: AtomicU64,
    /// When the next line may be logged, in milliseconds since `started`.
    due: AtomicU64,
    started: Instant,
}

impl Default for LateFlows {
    fn default() -> Self {
        Self {
            total: AtomicU64::new(0),
            unlogged: AtomicU64::new(0),
            due: AtomicU64::new(0),
            started: Instant::now(),
        }
    }
}

impl LateFlows {
    pub(super) fn count(&self, error: &FlowError) {
        self.total.fetch_add(1, Relaxed);
        self.unlogged.fetch_add(1, Relaxed);
        if self.claim_line() {
            self.log(Some(error));
        }
    }

    /// Logs the late flows that are not logged yet, if a minute has passed. Every flow that is not
    /// late calls it, so that the last late flows of a burst are logged as well.
    #[inline]
    pub(super) fn log_if_due(&self) {
        if self.unlogged.load(Relaxed) > 0 && self.claim_line() {
            self.log(None);
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Returns `true` to one caller per minute.
    fn claim_line(&self) -> bool {
        let since = Instant::now().saturating_duration_since(self.started);
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX / 2);
        let due = self.due.load(Relaxed);
        // The cast is lossless: a minute is 60 000 ms.
        let next = now + LOG_EVERY.as_millis() as u64;
        now >= due
            && self
                .due
                .compare_exchange(due, next, Relaxed, Relaxed)
                .is_ok()
    }

    fn log(&self, error: Option<&FlowError>) {
        let flows = self.unlogged.swap(0, Relaxed);
        if flows == 0 {
            return;
        }
        log_event!(
            warn,
            flows,
            reason = error.map(|error| WithCauses(error).to_string()),
            "answers of the Aperture agent came later than the check timeout and its grace: these \
             flows ran without a decision, or were rejected if their layer fails closed"
        );
    }
}

impl Drop for LateFlows {
    fn drop(&mut self) {
        self.log(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowErrorKind;

    #[tokio::test(start_paused = true)]
    async fn late_flows_are_logged_at_most_once_a_minute() {
        let late = LateFlows::default();
        let error = FlowError::new(FlowErrorKind::Timeout, "").late(true);
        late.count(&error);
        assert_eq!(
            late.unlogged.load(Relaxed),
            0,
            "the first is logged at once"
        );
        for _ in 0..5 {
            late.count(&error);
        }
        tokio::time::advance(LOG_EVERY - Duration::from_millis(1)).await;
        late.log_if_due();
        assert_eq!(late.unlogged.load(Relaxed), 5);
        tokio::time::advance(Duration::from_millis(1)).await;
        late.log_if_due();
        assert_eq!(late.unlogged.load(Relaxed), 0);
        assert_eq!(late.total(), 6);
    }
}
