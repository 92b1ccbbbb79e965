//! Counts the work of a store, for metrics and logs.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

#[cfg(feature = "tracing")]
use std::sync::Mutex;
#[cfg(feature = "tracing")]
use std::time::{Duration, Instant};

/// The counters of a [`Redis`](crate::Redis) store since it was built, and its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisStats {
    /// Operations on buckets and slots that engines submitted.
    pub operations: u64,
    /// Operations that ended with an error: the server was away, refused them, or too many were
    /// under way.
    pub errors: u64,
    /// Operations that the server did not answer within the deadline.
    pub late: u64,
    /// Flows that engines decided without the store.
    pub decided_without: u64,
    /// Outages: how often the server was given up.
    pub outages: u64,
    /// False while the server is given up.
    pub available: bool,
    /// True while the server announces freed slots. Else queues are served by polling.
    pub subscribed: bool,
    /// The nodes seen lately, including this one.
    pub nodes: u32,
    /// The slots that this node holds.
    pub held_slots: usize,
    /// Operations on the caches that engines submitted.
    pub cache_operations: u64,
    /// Operations on the caches that ended with an error, as for [`errors`](Self::errors).
    pub cache_errors: u64,
    /// Operations on the caches that the server did not answer within the deadline.
    pub cache_late: u64,
    /// False while the caches are given up; `None` if engines do not share their caches.
    pub caches_available: Option<bool>,
}

/// The counters behind [`RedisStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) operations: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) late: AtomicU64,
    pub(crate) decided_without: AtomicU64,
    pub(crate) outages: AtomicU64,
    pub(crate) subscribed: AtomicBool,
    /// Zero until the nodes were counted.
    pub(crate) nodes: AtomicU32,
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

/// Lets one log line pass in a while.
#[cfg(feature = "tracing")]
#[derive(Debug)]
pub(crate) struct LogThrottle {
    every: Duration,
    last: Mutex<Option<Instant>>,
}

#[cfg(feature = "tracing")]
impl LogThrottle {
    pub(crate) const fn new(every: Duration) -> Self {
        Self {
            every,
            last: Mutex::new(None),
        }
    }

    pub(crate) fn passes(&self, now: Instant) -> bool {
        let mut last = crate::shared::lock(&self.last);
        let passes = last.is_none_or(|last| now.saturating_duration_since(last) >= self.every);
        if passes {
            *last = Some(now);
        }
        passes
    }
}

#[cfg(all(test, feature = "tracing"))]
mod tests {
    use super::*;

    #[test]
    fn one_line_passes_in_a_while() {
        let throttle = LogThrottle::new(Duration::from_secs(60));
        let start = Instant::now();
        let passes = [0, 1, 59, 60, 61].map(|s| throttle.passes(start + Duration::from_secs(s)));
        assert_eq!(passes, [true, false, false, true, false]);
    }
}
