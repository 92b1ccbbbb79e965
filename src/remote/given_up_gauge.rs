//! The gauge of Agents that are given up; a no-op without the feature `metrics`.

#[cfg(feature = "metrics")]
use std::sync::OnceLock;
#[cfg(feature = "metrics")]
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

#[cfg(feature = "metrics")]
use metrics::{Gauge, gauge};

#[cfg(feature = "metrics")]
use crate::metrics::AGENT_GIVEN_UP;

#[cfg(feature = "metrics")]
/// Whether an Agent is given up. It adds one to the gauge while that is so, because several clients
/// may use the same Agent. Dropping it subtracts the one again.
#[derive(Debug, Default)]
pub(super) struct GivenUpGauge {
    gauge: OnceLock<Gauge>,
    is_given_up: AtomicBool,
}

#[cfg(feature = "metrics")]
impl GivenUpGauge {
    pub(super) fn register(&self, agent: &str) {
        self.gauge
            .get_or_init(|| gauge!(AGENT_GIVEN_UP, "agent" => agent.to_owned()));
    }

    pub(super) fn set(&self, given_up: bool) {
        if self.is_given_up.swap(given_up, SeqCst) == given_up {
            return;
        }
        if let Some(gauge) = self.gauge.get() {
            gauge.increment(if given_up { 1.0 } else { -1.0 });
        }
    }
}

#[cfg(feature = "metrics")]
impl Drop for GivenUpGauge {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(not(feature = "metrics"))]
#[derive(Debug, Default)]
pub(super) struct GivenUpGauge(());

#[cfg(not(feature = "metrics"))]
impl GivenUpGauge {
    pub(super) const fn set(&self, _: bool) {}
}
