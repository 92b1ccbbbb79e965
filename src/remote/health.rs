use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use crate::flow::{FlowError, FlowErrorKind};

const FINE: u8 = 0;
const OUTAGE: u8 = 1;
const REFUSED: u8 = 2;

/// Whether flows are decided about, by whichever Agent.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// What was logged last.
    logged: AtomicU8,
    decisions: AtomicU64,
    shut_down: AtomicBool,
}

impl Health {
    pub(super) fn is_shut_down(&self) -> bool {
        self.shut_down.load(SeqCst)
    }

    pub(super) fn shut_down(&self) {
        self.shut_down.store(true, SeqCst);
    }

    /// An Agent decided: what was wrong before is over.
    pub(super) fn decided(&self) {
        self.decisions.fetch_add(1, Relaxed);
        if self.logged.load(Relaxed) != FINE && self.logged.swap(FINE, Relaxed) != FINE {
            log_event!(info, "the Aperture agent answers again");
        }
    }

    /// How many decisions have come so far.
    pub(super) fn decisions(&self) -> u64 {
        self.decisions.load(Relaxed)
    }

    /// Warns when a flow became unreachable that would not have been before. `decisions` is how
    /// many there were when the check began, and `others` whether other Agents could have decided.
    pub(super) fn flow_failed(&self, error: &FlowError, decisions: u64, others: bool) {
        let decided = self.decisions() != decisions;
        let now = match error.kind() {
            FlowErrorKind::Unauthenticated => REFUSED,
            // Others were answered meanwhile: one check took long, the Agent is not away.
            FlowErrorKind::Timeout if decided => return,
            // One Agent is away, which is told where it is given up.
            FlowErrorKind::Unavailable if decided && others => return,
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
                reason = %crate::flow::WithCauses(error),
                "the Aperture agent refuses the API key: flows are unreachable"
            );
        } else {
            log_event!(
                warn,
                reason = %crate::flow::WithCauses(error),
                "no decisions from the Aperture agent: flows are unreachable"
            );
        }
    }
}
