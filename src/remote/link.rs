//! The state of the connections to one Agent, for users to look at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use crate::flow::ConnectionState;

const IDLE: u8 = 0;
const CONNECTING: u8 = 1;
const READY: u8 = 2;
const FAILED: u8 = 3;

/// The state of the connections to one Agent.
///
/// A user's channel keeps its state to itself, so the outcome of calls counts as well: an answer
/// proves the Agent ready, whatever the answer says.
#[derive(Debug, Default)]
pub(super) struct Link {
    state: AtomicU8,
    /// Open connections, whether or not anything was answered on them.
    open: AtomicUsize,
}

impl Link {
    pub(super) fn state(&self) -> ConnectionState {
        match self.state.load(Relaxed) {
            IDLE => ConnectionState::Idle,
            CONNECTING => ConnectionState::Connecting,
            READY => ConnectionState::Ready,
            _ => ConnectionState::TransientFailure,
        }
    }

    /// The Agent said something.
    pub(super) fn answered(&self) {
        // Read first: many calls at once would otherwise pass one cache line around.
        if self.state.load(Relaxed) != READY {
            self.state.store(READY, Relaxed);
        }
    }

    /// No answer came, for a reason that is the connection's.
    pub(super) fn unreachable(&self) {
        self.state.store(FAILED, Relaxed);
    }
}

/// An attempt to connect; one that is given up counts as failed.
pub(super) struct Attempt {
    link: Option<Arc<Link>>,
}

impl Attempt {
    pub(super) fn start(link: &Arc<Link>) -> Self {
        if link.open.load(SeqCst) == 0 {
            link.state.store(CONNECTING, Relaxed);
        }
        Self {
            link: Some(Arc::clone(link)),
        }
    }

    pub(super) fn succeeded(mut self) -> Open {
        let link = self.link.take();
        if let Some(link) = &link {
            link.open.fetch_add(1, SeqCst);
        }
        Open { link }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(link) = self.link.take()
            && link.open.load(SeqCst) == 0
        {
            link.unreachable();
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Open {
    link: Option<Arc<Link>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(link) = self.link.take()
            && link.open.fetch_sub(1, SeqCst) == 1
            && link.state.load(Relaxed) != FAILED
        {
            link.state.store(IDLE, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_connection_lost_leaves_the_agent_idle() {
        let link = Arc::new(Link::default());
        assert_eq!(link.state(), ConnectionState::Idle);
        let attempt = Attempt::start(&link);
        assert_eq!(link.state(), ConnectionState::Connecting);
        let first = attempt.succeeded();
        let second = Attempt::start(&link).succeeded();
        link.answered();
        assert_eq!(link.state(), ConnectionState::Ready);
        drop(first);
        assert_eq!(link.state(), ConnectionState::Ready);
        drop(second);
        assert_eq!(link.state(), ConnectionState::Idle);
    }

    #[test]
    fn an_attempt_given_up_is_a_failure() {
        let link = Arc::new(Link::default());
        drop(Attempt::start(&link));
        assert_eq!(link.state(), ConnectionState::TransientFailure);
        link.answered();
        assert_eq!(link.state(), ConnectionState::Ready);
    }
}
