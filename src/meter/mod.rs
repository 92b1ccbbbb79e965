//! Records the metrics of flows by control point, through the `metrics` facade.
//!
//! The traits do nothing by default. [`ClientMeter`] records metrics with the feature `metrics`, and
//! is a type without content otherwise.

#[cfg(feature = "metrics")]
mod recorder;
#[cfg(not(feature = "metrics"))]
#[path = "no_op.rs"]
mod recorder;

use std::time::Duration;

pub(crate) use self::recorder::ClientMeter;
use crate::flow::{CacheEvent, CacheValue, FlowStatus, Verdict};

pub(crate) type ClientCheckTimer = <ClientMeter as Meter>::CheckTimer;
pub(crate) type ClientEndCounter = <ClientCheckTimer as CheckTimer>::EndCounter;

/// The metrics of one client.
pub(crate) trait Meter {
    type CheckTimer: CheckTimer;

    /// False if nothing is recorded.
    const RECORDS: bool = true;

    /// Starts to measure the check of a flow.
    fn start_check(&self, control_point: &str) -> Self::CheckTimer;

    fn count_labels_dropped(&self, _: u32) {}

    fn count_labels_shortened(&self, _: u32) {}

    fn count_cache_event(&self, _: CacheEvent) {}

    /// Counts a change to the caches of an engine in the background, which was made or failed.
    fn count_cache_write(&self, _: bool) {}

    fn count_result_lookup(&self, _: LookupOutcome) {}

    fn count_global_lookup(&self, _: LookupOutcome) {}
}

/// Measures a check that is under way. If it is dropped without a verdict, the check counts as
/// abandoned.
pub(crate) trait CheckTimer {
    type EndCounter: EndCounter;

    /// Moves the measurement into a new timer, for a pending check.
    fn take(&mut self) -> Self;

    /// Records that the flow was not decided at once and waits in process.
    fn mark_queued(&mut self) {}

    /// Records how long the flow waited at an Agent, if it did.
    fn set_queue_time(&mut self, _: impl FnOnce() -> Option<Duration>) {}

    /// Records the verdict. `shadow` means that the flow runs regardless of it, `undecided` that no
    /// component decided about the flow.
    fn stop<T>(&mut self, verdict: &Verdict<T>, shadow: bool, undecided: bool) -> Self::EndCounter;
}

/// Counts the end of an accepted or rejected flow. If it is dropped before, the flow counts as ended
/// with an error. The default counts nothing.
pub(crate) trait EndCounter: Default {
    fn count_end(self, _: FlowStatus) {}

    /// Returns true if the end of the flow is counted.
    fn is_active(&self) -> bool {
        false
    }
}

/// What a cache lookup found for one key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LookupOutcome {
    Hit,
    Miss,
    Refused,
}

impl From<&CacheValue> for LookupOutcome {
    fn from(value: &CacheValue) -> Self {
        match value {
            Ok(Some(_)) => Self::Hit,
            Ok(None) => Self::Miss,
            Err(_) => Self::Refused,
        }
    }
}
