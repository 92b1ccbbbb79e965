//! Measures how long a flow takes, for flux meters and for load schedulers.

use std::sync::Arc;

use super::clock::{DecisionTime, Nanos, nanos};
use super::flux_meter::{FluxMeter, MatchedMeters};
use super::in_process::EngineShared;
use aperture_core::FlowOutcome;

/// Measures a decided flow until it ends.
#[derive(Debug)]
pub(crate) struct FlowTimer {
    engine: Arc<EngineShared>,
    meters: MatchedMeters,
    begun: Nanos,
}

impl FlowTimer {
    /// Starts measuring at the time of the decision. Returns `None` if no meter and no workload
    /// measures the flow.
    #[inline]
    pub(crate) fn begin(
        engine: &Arc<EngineShared>,
        meters: MatchedMeters,
        time: &DecisionTime<'_>,
    ) -> Option<Self> {
        if meters.is_empty() {
            return None;
        }
        Some(Self {
            begun: time.now(),
            engine: Arc::clone(engine),
            meters,
        })
    }

    /// Returns the flux meters that measure the flow.
    pub(crate) fn meters(&self) -> impl Iterator<Item = &Arc<FluxMeter>> {
        self.meters.meters()
    }

    /// Records the duration of the flow.
    pub(crate) fn end(self, outcome: FlowOutcome) {
        let now = nanos(self.engine.clock.now());
        let duration = now.saturating_sub(self.begun);
        // First make up for the ticks of circuits that are due, which must not see this flow.
        self.engine.live.load().control.catch_up(now);
        self.meters.record(duration, outcome, now);
    }
}
