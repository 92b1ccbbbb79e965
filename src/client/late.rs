//! Counts flows whose decision came too late, and logs their number at most once a minute.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::flow::FlowError;
#[cfg(feature = "tracing")]
use crate::flow::WithCauses;

/// The least time between two log lines.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The late flows of one client. Its drop logs those that no line has named yet.
#[derive(Debug)]
pub(super) struct LateFlows {
    total: AtomicU64,
    /// Those that no line has named yet.
    unlogged: AtomicU64,
    /// When the next line may be logged, in milliseconds since `begun`.
    due: AtomicU64,
    begun: Instant,
}

impl Default for LateFlows {
    fn default() -> Self {
        Self {
            total: AtomicU64::new(0),
            unlogged: AtomicU64::new(0),
            due: AtomicU64::new(0),
            begun: Instant::now(),
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

    /// Logs what has waited for its minute. Any other flow calls it, so that the last late flows
    /// of a burst are named as well.
    #[inline]
    pub(super) fn log_if_due(&self) {
        if self.unlogged.load(Relaxed) > 0 && self.claim_line() {
            self.log(None);
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Returns `true` to one caller a minute.
    fn claim_line(&self) -> bool {
        let since = Instant::now().saturating_duration_since(self.begun);
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX / 2);
        let due = self.due.load(Relaxed);
        // At most a minute in milliseconds.
        let next = now + LOG_EVERY.as_millis() as u64;
        now >= due
            && self
                .due
                .compare_exchange(due, next, Relaxed, Relaxed)
                .is_ok()
    }

    #[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
    fn log(&self, error: Option<&FlowError>) {
        let flows = self.unlogged.swap(0, Relaxed);
        if flows == 0 {
            return;
        }
        log_event!(
            warn,
            flows,
            reason = error.map(|error| tracing::field::display(WithCauses(error))),
            "answers of the Aperture agent came later than the check timeout and its grace: these \
             flows ran without a decision, or were refused where a layer fails closed"
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
    async fn one_caller_a_minute_may_log() {
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
