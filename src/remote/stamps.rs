//! When a flow started, and when its work did; read only where spans are sent.

#[cfg(feature = "telemetry")]
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Unix times in nanoseconds. Only the first is read from the wall clock: later ones never run
/// backwards, whatever happens to it.
#[cfg(feature = "telemetry")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamps {
    flow_start: u64,
    workload_start: u64,
    clock: Instant,
}

#[cfg(feature = "telemetry")]
impl Stamps {
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

    /// The answer came: the work starts.
    pub(super) fn answered(mut self) -> Self {
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

#[cfg(not(feature = "telemetry"))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamps;

#[cfg(not(feature = "telemetry"))]
impl Stamps {
    pub(super) const fn start() -> Self {
        Self
    }

    pub(super) const fn answered(self) -> Self {
        self
    }
}

#[cfg(all(test, feature = "telemetry"))]
mod tests {
    use super::*;

    #[test]
    fn stamps_run_forward() {
        let stamps = Stamps::start().answered();
        assert!(stamps.flow_start() <= stamps.workload_start());
        assert!(stamps.workload_start() <= stamps.now());
    }
}
