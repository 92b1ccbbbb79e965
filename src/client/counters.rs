//! The counters of one client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::cache::CacheWrites;
use super::late::LateFlows;
use crate::flow::decision_counters::DecisionCounters;
use crate::flow::{CacheEvent, ClientStats, FlowError, FlowErrorKind, Verdict};

/// The counters that the client updates itself; the backends add their own.
#[derive(Debug, Default)]
pub(super) struct ClientCounters {
    decisions: DecisionCounters,
    shadowed: AtomicU64,
    unreachable: AtomicU64,
    timeouts: AtomicU64,
    late: LateFlows,
    unavailable: AtomicU64,
    unauthenticated: AtomicU64,
    invalid: AtomicU64,
    labels_dropped: AtomicU64,
    labels_shortened: AtomicU64,
    cache_answers: AtomicU64,
    cache_unreadable: AtomicU64,
    cache_writes: Arc<CacheWrites>,
    /// Whether the last value read from the result cache was not a response of the layer.
    last_read_was_unreadable: AtomicBool,
}

impl ClientCounters {
    /// Counts an accepted flow. `undecided` means that no component decided about it.
    #[inline(always)]
    pub(super) fn count_accepted(&self, undecided: bool) {
        self.late.log_if_due();
        self.decisions.count_accepted(undecided);
    }

    /// Counts a verdict. `shadow` means that the flow runs regardless of it, `undecided` that it was
    /// accepted and no component decided about it.
    pub(super) fn count<T>(&self, verdict: &Verdict<T>, shadow: bool, undecided: bool) {
        match verdict {
            Verdict::Unreachable(error) if error.is_late() => self.late.count(error),
            _ => self.late.log_if_due(),
        }
        match verdict {
            Verdict::Accepted(_) => self.decisions.count_accepted(undecided),
            Verdict::Rejected(..) => {
                if shadow {
                    self.shadowed.fetch_add(1, Relaxed);
                }
                self.decisions.count_rejected();
            }
            Verdict::Unreachable(error) => self.count_unreachable(error),
        }
    }

    fn count_unreachable(&self, error: &FlowError) {
        let kind = match error.kind() {
            FlowErrorKind::Timeout => Some(&self.timeouts),
            FlowErrorKind::Unavailable => Some(&self.unavailable),
            FlowErrorKind::Unauthenticated => Some(&self.unauthenticated),
            FlowErrorKind::InvalidRequest => Some(&self.invalid),
            _ => None,
        };
        if let Some(counter) = kind {
            counter.fetch_add(1, Relaxed);
        }
        self.unreachable.fetch_add(1, Relaxed);
    }

    pub(super) fn count_dropped_labels(&self, dropped: u32) {
        self.labels_dropped.fetch_add(dropped.into(), Relaxed);
    }

    pub(super) fn count_shortened_labels(&self, shortened: u32) {
        self.labels_shortened.fetch_add(shortened.into(), Relaxed);
    }

    pub(super) fn count_cache_event(&self, event: CacheEvent) {
        match event {
            CacheEvent::Answered => {
                self.cache_answers.fetch_add(1, Relaxed);
                self.last_read_was_unreadable.store(false, Relaxed);
            }
            CacheEvent::Unreadable => {
                self.cache_unreadable.fetch_add(1, Relaxed);
                if !self.last_read_was_unreadable.swap(true, Relaxed) {
                    log_event!(
                        warn,
                        "the result cache has a value that this version of the layer did not \
                         store: it is ignored"
                    );
                }
            }
            _ => {}
        }
    }

    /// Returns the counters of writes to the caches of an engine in the background. Writes to an
    /// Agent are counted by the remote backend.
    pub(super) const fn cache_writes(&self) -> &Arc<CacheWrites> {
        &self.cache_writes
    }

    pub(super) fn snapshot(&self) -> ClientStats {
        let mut stats = ClientStats::default();
        (stats.accepted, stats.undecided, stats.rejected) = self.decisions.sums();
        stats.shadowed = self.shadowed.load(Relaxed);
        stats.unreachable = self.unreachable.load(Relaxed);
        stats.timeouts = self.timeouts.load(Relaxed);
        stats.late = self.late.total();
        stats.unavailable = self.unavailable.load(Relaxed);
        stats.unauthenticated = self.unauthenticated.load(Relaxed);
        stats.invalid = self.invalid.load(Relaxed);
        stats.labels_dropped = self.labels_dropped.load(Relaxed);
        stats.labels_shortened = self.labels_shortened.load(Relaxed);
        stats.cache_answers = self.cache_answers.load(Relaxed);
        stats.cache_unreadable = self.cache_unreadable.load(Relaxed);
        (stats.cache_writes, stats.cache_writes_failed) = self.cache_writes.sums();
        stats
    }
}
