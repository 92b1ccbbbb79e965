//! The gauge of Agents that are given up.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::meter::MetricGauge;

/// Whether an Agent is given up. It adds one to the gauge while that is so, because several clients
/// may use the same Agent. Dropping it subtracts the one again.
#[derive(Debug, Default)]
pub(super) struct GivenUpGauge {
    pub(super) gauge: OnceLock<MetricGauge>,
    is_given_up: AtomicBool,
}

impl GivenUpGauge {
    pub(super) fn set(&self, given_up: bool) {
        if self.is_given_up.swap(given_up, SeqCst) == given_up {
            return;
        }
        if let Some(gauge) = self.gauge.get() {
            gauge.increment(if given_up { 1.0 } else { -1.0 });
        }
    }
}

impl Drop for GivenUpGauge {
    fn drop(&mut self) {
        self.set(false);
    }
}
