use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst,
};

use crate::flow::{ConnectionState, FlowError, FlowErrorKind};

const IDLE: u8 = 0;
const CONNECTING: u8 = 1;
const READY: u8 = 2;
const FAILED: u8 = 3;

const FINE: u8 = 0;
const OUTAGE: u8 = 1;
const REFUSED: u8 = 2;

/// How the client stands with its Agent, told from what happens to calls and connections.
///
/// tonic keeps the state of a channel to itself, so it is pieced together from outside: an answer
/// proves the Agent ready, whatever the answer says.
#[derive(Debug, Default)]
pub(super) struct Health {
    state: AtomicU8,
    /// Open connections, whether or not anything was answered on them.
    open: AtomicUsize,
    /// What was logged last.
    logged: AtomicU8,
    decisions: AtomicU64,
    shut_down: AtomicBool,
}

impl Health {
    pub(super) fn state(&self) -> ConnectionState {
        if self.is_shut_down() {
            return ConnectionState::Shutdown;
        }
        match self.state.load(Relaxed) {
            IDLE => ConnectionState::Idle,
            CONNECTING => ConnectionState::Connecting,
            READY => ConnectionState::Ready,
            _ => ConnectionState::TransientFailure,
        }
    }

    pub(super) fn is_shut_down(&self) -> bool {
        self.shut_down.load(SeqCst)
    }

    pub(super) fn shut_down(&self) {
        self.shut_down.store(true, SeqCst);
    }

    /// The Agent said something.
    pub(super) fn answered(&self) {
        // Read first: many calls at once would otherwise pass one cache line around.
        if self.state.load(Relaxed) != READY {
            self.state.store(READY, Relaxed);
        }
    }

    /// The Agent decided: what was wrong before is over.
    pub(super) fn decided(&self) {
        self.decisions.fetch_add(1, Relaxed);
        self.answered();
        if self.logged.load(Relaxed) != FINE && self.logged.swap(FINE, Relaxed) != FINE {
            log_event!(info, "the Aperture agent answers again");
        }
    }

    /// No answer came, for a reason that is the connection's.
    pub(super) fn unreachable(&self) {
        self.state.store(FAILED, Relaxed);
    }

    /// How many decisions have come so far.
    pub(super) fn decisions(&self) -> u64 {
        self.decisions.load(Relaxed)
    }

    /// Warns when a flow became unreachable that would not have been before. `decisions` is how
    /// many there were when the check began.
    pub(super) fn flow_failed(&self, error: &FlowError, decisions: u64) {
        let now = match error.kind() {
            FlowErrorKind::Unauthenticated => REFUSED,
            // Others were answered meanwhile: one check took long, the Agent is not away.
            FlowErrorKind::Timeout if self.decisions() != decisions => return,
            FlowErrorKind::Timeout | FlowErrorKind::Unavailable | FlowErrorKind::Other => OUTAGE,
            _ => return,
        };
        if self.logged.load(Relaxed) == now || self.logged.swap(now, Relaxed) == now {
            return;
        }
        // Without `tracing` nothing is left of either.
        #[allow(clippy::if_same_then_else)]
        if now == REFUSED {
            log_event!(
                warn,
                reason = %error,
                "the Aperture agent refuses the API key: flows are unreachable"
            );
        } else {
            log_event!(
                warn,
                reason = %error,
                "no decisions from the Aperture agent: flows are unreachable"
            );
        }
    }
}

/// An attempt to connect; one that is given up counts as failed.
pub(super) struct Attempt {
    health: Option<Arc<Health>>,
}

impl Attempt {
    pub(super) fn start(health: &Arc<Health>) -> Self {
        if health.open.load(SeqCst) == 0 {
            health.state.store(CONNECTING, Relaxed);
        }
        Self {
            health: Some(Arc::clone(health)),
        }
    }

    pub(super) fn succeeded(mut self) -> Open {
        let health = self.health.take();
        if let Some(health) = &health {
            health.open.fetch_add(1, SeqCst);
        }
        Open { health }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(health) = self.health.take()
            && health.open.load(SeqCst) == 0
        {
            health.unreachable();
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Open {
    health: Option<Arc<Health>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(health) = self.health.take()
            && health.open.fetch_sub(1, SeqCst) == 1
            && health.state.load(Relaxed) != FAILED
        {
            health.state.store(IDLE, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_connection_lost_leaves_the_client_idle() {
        let health = Arc::new(Health::default());
        assert_eq!(health.state(), ConnectionState::Idle);
        let attempt = Attempt::start(&health);
        assert_eq!(health.state(), ConnectionState::Connecting);
        let first = attempt.succeeded();
        let second = Attempt::start(&health).succeeded();
        health.answered();
        assert_eq!(health.state(), ConnectionState::Ready);
        drop(first);
        assert_eq!(health.state(), ConnectionState::Ready);
        drop(second);
        assert_eq!(health.state(), ConnectionState::Idle);
    }

    #[test]
    fn an_attempt_given_up_is_a_failure() {
        let health = Arc::new(Health::default());
        drop(Attempt::start(&health));
        assert_eq!(health.state(), ConnectionState::TransientFailure);
        health.answered();
        assert_eq!(health.state(), ConnectionState::Ready);
        health.shut_down();
        assert_eq!(health.state(), ConnectionState::Shutdown);
    }
}
