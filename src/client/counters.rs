use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::flow::{ClientStats, FlowError, FlowErrorKind, Verdict};

/// What the client counts itself; the backends add their own.
#[derive(Debug, Default)]
pub(super) struct Counters {
    accepted: AtomicU64,
    rejected: AtomicU64,
    unreachable: AtomicU64,
    timeouts: AtomicU64,
    unavailable: AtomicU64,
    unauthenticated: AtomicU64,
    invalid: AtomicU64,
    labels_dropped: AtomicU64,
}

impl Counters {
    pub(super) fn count<T>(&self, verdict: &Verdict<T>) {
        match verdict {
            Verdict::Accepted(_) => self.accepted.fetch_add(1, Relaxed),
            Verdict::Rejected(..) => self.rejected.fetch_add(1, Relaxed),
            Verdict::Unreachable(error) => self.count_unreachable(error),
        };
    }

    fn count_unreachable(&self, error: &FlowError) -> u64 {
        let kind = match error.kind() {
            FlowErrorKind::Timeout => Some(&self.timeouts),
            FlowErrorKind::Unavailable => Some(&self.unavailable),
            FlowErrorKind::Unauthenticated => Some(&self.unauthenticated),
            FlowErrorKind::InvalidRequest => Some(&self.invalid),
            FlowErrorKind::Disabled | FlowErrorKind::ShutDown | FlowErrorKind::Other => None,
        };
        if let Some(counter) = kind {
            counter.fetch_add(1, Relaxed);
        }
        self.unreachable.fetch_add(1, Relaxed)
    }

    pub(super) fn count_dropped_labels(&self, dropped: u32) {
        self.labels_dropped.fetch_add(dropped.into(), Relaxed);
    }

    pub(super) fn snapshot(&self) -> ClientStats {
        ClientStats {
            accepted: self.accepted.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            unreachable: self.unreachable.load(Relaxed),
            timeouts: self.timeouts.load(Relaxed),
            unavailable: self.unavailable.load(Relaxed),
            unauthenticated: self.unauthenticated.load(Relaxed),
            invalid: self.invalid.load(Relaxed),
            labels_dropped: self.labels_dropped.load(Relaxed),
            ..ClientStats::default()
        }
    }
}
