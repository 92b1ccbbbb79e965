//! The answered probes of one Agent.

use std::sync::atomic::AtomicBool;

use tokio::sync::watch;

/// The answered probes of one Agent, for checks without a caller.
pub(super) struct ProbeAnswers {
    /// The number of answered probes. It is sent again, unchanged, when the client shuts down.
    pub(super) answered_probes: watch::Sender<u64>,
    /// A probe of the Agent is running.
    pub(super) probing: AtomicBool,
}

impl ProbeAnswers {
    pub(super) fn new() -> Self {
        Self {
            answered_probes: watch::Sender::new(0),
            probing: AtomicBool::new(false),
        }
    }

    /// Wakes all waiting checks, so that they shorten their wait at shutdown.
    pub(super) fn wake_waiting_checks(&self) {
        self.answered_probes.send_modify(|_| ());
    }
}
