//! The start times of a flow and of its work.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Unix times in nanoseconds. Only the first is read from the wall clock. Later ones add a
/// monotonic duration, so that they never run backwards when the clock is set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timestamps {
    flow_start: u64,
    workload_start: u64,
    clock: Instant,
}

impl Timestamps {
    pub(super) fn start() -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let flow_start = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        Self {
            flow_start,
            workload_start: flow_start,
            clock: Instant::now(),
        }
    }

    /// Records the decision, which starts the work.
    pub(super) fn start_workload(mut self) -> Self {
        self.workload_start = self.now();
        self
    }

    pub(super) const fn flow_start(&self) -> u64 {
        self.flow_start
    }

    pub(super) const fn workload_start(&self) -> u64 {
        self.workload_start
    }

    pub(super) fn now(&self) -> u64 {
        let since = u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.flow_start.saturating_add(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_never_decrease() {
        let timestamps = Timestamps::start().start_workload();
        assert!(timestamps.flow_start() <= timestamps.workload_start());
        assert!(timestamps.workload_start() <= timestamps.now());
    }
}
