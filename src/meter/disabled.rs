//! No-op stubs for builds without the feature `metrics`.

use std::time::Duration;

use crate::flow::{CacheEvent, CacheLookup, CacheValue, FlowStatus, Verdict};

#[derive(Debug, Default)]
pub(crate) struct Meter(());

#[derive(Debug)]
pub(crate) struct CheckTimer(());

#[derive(Debug, Default)]
pub(crate) struct EndCounter(());

impl Meter {
    pub(crate) const fn start_check(&self, _: &str) -> CheckTimer {
        CheckTimer(())
    }

    pub(crate) const fn count_labels_dropped(&self, _: u32) {}

    pub(crate) const fn count_labels_shortened(&self, _: u32) {}

    pub(crate) const fn count_cache_event(&self, _: CacheEvent) {}

    pub(crate) const fn count_cache_write(&self, _: bool) {}

    pub(crate) const fn count_lookup(&self, _: &CacheLookup) {}

    pub(crate) const fn count_result_lookup(&self, _: &CacheValue) {}

    pub(crate) const fn count_global_lookup(&self, _: &CacheValue) {}
}

impl CheckTimer {
    pub(crate) const fn take(&mut self) -> Self {
        Self(())
    }

    pub(crate) const fn mark_queued(&mut self) {}

    pub(crate) fn set_queue_time(&mut self, _: impl FnOnce() -> Option<Duration>) {}

    pub(crate) const fn stop<T>(&mut self, _: &Verdict<T>, _: bool, _: bool) -> EndCounter {
        EndCounter(())
    }
}

impl EndCounter {
    pub(crate) const fn count_end(self, _: FlowStatus) {}
}
