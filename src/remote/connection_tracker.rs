//! Tracks the state of the connections to one Agent, for the status that users read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use crate::flow::ConnectionState;

const IDLE: u8 = 0;
const CONNECTING: u8 = 1;
const READY: u8 = 2;
const FAILED: u8 = 3;

/// The state of the connections to one Agent.
///
/// A user's channel does not expose its state, so the outcome of calls counts as well: any answer,
/// even an error, proves the Agent ready.
#[derive(Debug, Default)]
pub(super) struct ConnectionTracker {
    state: AtomicU8,
    /// The number of open connections, whether or not a call was answered on them.
    open: AtomicUsize,
}

impl ConnectionTracker {
    pub(super) fn state(&self) -> ConnectionState {
        match self.state.load(Relaxed) {
            IDLE => ConnectionState::Idle,
            CONNECTING => ConnectionState::Connecting,
            READY => ConnectionState::Ready,
            _ => ConnectionState::TransientFailure,
        }
    }

    /// Records an answer of the Agent.
    pub(super) fn record_answer(&self) {
        // Read first: many concurrent calls would otherwise contend for the cache line.
        if self.state.load(Relaxed) != READY {
            self.state.store(READY, Relaxed);
        }
    }

    /// Records a call that failed because of the connection.
    pub(super) fn record_failure(&self) {
        self.state.store(FAILED, Relaxed);
    }
}

/// An attempt to connect. If it is dropped before it succeeds, it counts as failed.
pub(super) struct ConnectAttempt {
    tracker: Option<Arc<ConnectionTracker>>,
}

impl ConnectAttempt {
    pub(super) fn start(tracker: &Arc<ConnectionTracker>) -> Self {
        if tracker.open.load(SeqCst) == 0 {
            tracker.state.store(CONNECTING, Relaxed);
        }
        Self {
            tracker: Some(Arc::clone(tracker)),
        }
    }

    pub(super) fn succeeded(mut self) -> TrackedConnection {
        let tracker = self.tracker.take();
        if let Some(tracker) = &tracker {
            tracker.open.fetch_add(1, SeqCst);
        }
        TrackedConnection { tracker }
    }
}

impl Drop for ConnectAttempt {
    fn drop(&mut self) {
        if let Some(tracker) = self.tracker.take()
            && tracker.open.load(SeqCst) == 0
        {
            tracker.record_failure();
        }
    }
}

/// An open connection, counted until it is dropped.
#[derive(Debug)]
pub(super) struct TrackedConnection {
    tracker: Option<Arc<ConnectionTracker>>,
}

impl Drop for TrackedConnection {
    fn drop(&mut self) {
        if let Some(tracker) = self.tracker.take()
            && tracker.open.fetch_sub(1, SeqCst) == 1
            && tracker.state.load(Relaxed) != FAILED
        {
            tracker.state.store(IDLE, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losing_the_last_connection_makes_the_agent_idle() {
        let tracker = Arc::new(ConnectionTracker::default());
        assert_eq!(tracker.state(), ConnectionState::Idle);
        let attempt = ConnectAttempt::start(&tracker);
        assert_eq!(tracker.state(), ConnectionState::Connecting);
        let first = attempt.succeeded();
        let second = ConnectAttempt::start(&tracker).succeeded();
        tracker.record_answer();
        assert_eq!(tracker.state(), ConnectionState::Ready);
        drop(first);
        assert_eq!(tracker.state(), ConnectionState::Ready);
        drop(second);
        assert_eq!(tracker.state(), ConnectionState::Idle);
    }

    #[test]
    fn a_dropped_attempt_counts_as_a_failure() {
        let tracker = Arc::new(ConnectionTracker::default());
        drop(ConnectAttempt::start(&tracker));
        assert_eq!(tracker.state(), ConnectionState::TransientFailure);
        tracker.record_answer();
        assert_eq!(tracker.state(), ConnectionState::Ready);
    }
}
