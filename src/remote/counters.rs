//! The counters of the remote client.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::meter::MetricCounter;
use crate::flow::ClientStats;

/// The part of [`ClientStats`] that the remote client counts.
#[derive(Debug, Default)]
pub(super) struct RemoteCounters {
    pub(super) checks_handed_over: Counter,
    pub(super) checks_cancelled: Counter,
    /// Checks that ended without an answer and may have left a slot taken.
    pub(super) checks_unsettled: Counter,
    pub(super) checks_moved: Counter,
    pub(super) checks_not_sent: Counter,
    pub(super) agents_given_up: Counter,
    pub(super) probes: Counter,
    pub(super) ends_delivered: Counter,
    pub(super) ends_retried: Counter,
    pub(super) ends_moved: Counter,
    pub(super) ends_failed: Counter,
    pub(super) ends_dropped: Counter,
    pub(super) cache_writes: Counter,
    pub(super) cache_writes_failed: Counter,
    pub(super) cache_writes_dropped: Counter,
    /// The last cache write failed.
    pub(super) cache_failing: AtomicBool,
    pub(super) spans_exported: Counter,
    pub(super) spans_failed: Counter,
    pub(super) spans_dropped: Counter,
}

#[derive(Debug, Default)]
pub(super) struct Counter {
    count: AtomicU64,
    pub(super) metric: OnceLock<MetricCounter>,
}

impl Counter {
    pub(super) fn add(&self, n: usize) {
        self.count.fetch_add(n as u64, Relaxed);
        if let Some(metric) = self.metric.get() {
            metric.increment(n as u64);
        }
    }

    pub(super) fn get(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

impl RemoteCounters {
    /// Returns the amount of work that did not reach an Agent, plus the checks that may have left a
    /// slot taken.
    pub(super) fn lost(&self) -> u64 {
        self.checks_unsettled.get()
            + self.ends_failed.get()
            + self.ends_dropped.get()
            + self.cache_writes_failed.get()
            + self.cache_writes_dropped.get()
            + self.spans_failed.get()
            + self.spans_dropped.get()
    }

    pub(super) fn add_to(&self, stats: &mut ClientStats) {
        stats.checks_handed_over += self.checks_handed_over.get();
        stats.checks_cancelled += self.checks_cancelled.get();
        stats.checks_unsettled += self.checks_unsettled.get();
        stats.checks_moved += self.checks_moved.get();
        stats.checks_not_sent += self.checks_not_sent.get();
        stats.agents_given_up += self.agents_given_up.get();
        stats.probes += self.probes.get();
        stats.ends_delivered += self.ends_delivered.get();
        stats.ends_retried += self.ends_retried.get();
        stats.ends_moved += self.ends_moved.get();
        stats.ends_failed += self.ends_failed.get();
        stats.ends_dropped += self.ends_dropped.get();
        stats.cache_writes += self.cache_writes.get();
        stats.cache_writes_failed += self.cache_writes_failed.get();
        stats.cache_writes_dropped += self.cache_writes_dropped.get();
        stats.spans_exported += self.spans_exported.get();
        stats.spans_failed += self.spans_failed.get();
        stats.spans_dropped += self.spans_dropped.get();
    }
}
