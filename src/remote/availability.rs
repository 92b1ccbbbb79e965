//! Logs when Agents stop deciding flows, whichever Agent it is that fails.
//!
//! There are two kinds of messages: a warning when an outage begins, with a message when it ends;
//! and a warning about single flows without a decision while other flows are decided. Both are rate
//! limited, and include the count of flows since the last message.

use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::flow::{FlowError, FlowErrorKind};

/// The shortest time between the end of an outage and the warning about the next one of its kind.
/// An outage that begins earlier is logged once this time has passed. Otherwise Agents that answer
/// from time to time would fill the log.
const MIN_OUTAGE_GAP: Duration = Duration::from_secs(10);

/// The shortest time between two warnings about single flows.
const SINGLE_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Bits of `logged`, one for each kind of warning.
const OUTAGE: u8 = 1;
const KEY_REFUSED: u8 = 2;
/// How far the bits are shifted for flows that fail closed.
const FAILS_CLOSED_SHIFT: u32 = 2;
/// The number of bits that stand for a warning.
const WARNING_KINDS: usize = 4;
/// An outage is in progress, and may not have been logged.
const IN_PROGRESS: u8 = 1 << 7;

/// Counts flows without a decision, and logs the begin and end of outages. Also holds the flag
/// that the client has shut down.
#[derive(Debug, Default)]
pub(super) struct Availability {
    /// The kinds of warnings that were logged in this outage.
    logged: AtomicU8,
    decisions: AtomicU64,
    /// Flows without a decision since the last logged recovery: those that ran, and those that were
    /// rejected.
    ran: AtomicU64,
    refused: AtomicU64,
    /// Flows without a decision while others were decided, since the last warning.
    single_failures: AtomicU64,
    shut_down: AtomicBool,
    outage: Mutex<Outage>,
}

#[derive(Debug, Default)]
struct Outage {
    since: Option<Instant>,
    /// When the last logged outage ended, for each bit of `logged`.
    ended: [Option<Instant>; WARNING_KINDS],
    /// When the last warning about single flows was logged.
    single_warned: Option<Instant>,
}

/// A flow that became unreachable.
pub(super) struct UnreachableFlow<'a> {
    /// The address of the Agent that was asked last. Only used in logs.
    pub(super) agent: Option<&'a str>,
    /// The number of decisions when the check began.
    pub(super) decisions_before: u64,
    /// Other Agents could have decided the flow.
    pub(super) other_agents: bool,
    /// The flow does not run: it is in ramp mode, or its layer fails closed.
    pub(super) fails_closed: bool,
}

impl UnreachableFlow<'_> {
    const fn consequence(&self) -> &'static str {
        if self.fails_closed {
            "requests that fail closed (ramp mode, FailureMode::Closed) are now rejected"
        } else {
            "requests now run without limits"
        }
    }
}

impl Availability {
    pub(super) fn is_shut_down(&self) -> bool {
        self.shut_down.load(SeqCst)
    }

    pub(super) fn shut_down(&self) {
        self.shut_down.store(true, SeqCst);
    }

    /// Records a decision, which ends an outage.
    pub(super) fn record_decision(&self) {
        self.decisions.fetch_add(1, Relaxed);
        if self.logged.load(Relaxed) != 0 {
            self.recovered();
        }
    }

    #[cold]
    fn recovered(&self) {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        let logged = self.logged.swap(0, Relaxed);
        if logged == 0 {
            return;
        }
        let now = Instant::now();
        let lasted = outage.since.take().map(|since| now - since);
        if logged == IN_PROGRESS {
            // The next message includes the flows of this outage.
            return;
        }
        for (bit, ended) in outage.ended.iter_mut().enumerate() {
            if logged & (1 << bit) != 0 {
                *ended = Some(now);
            }
        }
        drop(outage);
        let (ran, refused) = (self.ran.swap(0, Relaxed), self.refused.swap(0, Relaxed));
        log_event!(
            info,
            lasted = ?lasted.unwrap_or_default(),
            ran,
            refused,
            "the Aperture agent decides again; meanwhile `ran` requests ran without limits and \
             `refused` requests were rejected"
        );
    }

    /// Returns the number of decisions so far.
    pub(super) fn decisions(&self) -> u64 {
        self.decisions.load(Relaxed)
    }

    /// Counts an unreachable flow, and logs a warning for the first of its kind in an outage.
    pub(super) fn record_unreachable(&self, error: &FlowError, flow: &UnreachableFlow<'_>) {
        let others_decided = self.decisions() != flow.decisions_before;
        let kind = match error.kind() {
            FlowErrorKind::Unauthenticated => KEY_REFUSED,
            // Other flows were decided meanwhile: this check took long, but the Agent answers. Late
            // flows have a counter and a warning of their own.
            FlowErrorKind::Timeout if others_decided && error.is_late() => return,
            FlowErrorKind::Timeout if others_decided => return self.warn_single(error, flow),
            // One Agent is away, which is logged when it is given up.
            FlowErrorKind::Unavailable if others_decided && flow.other_agents => {
                return self.warn_single(error, flow);
            }
            FlowErrorKind::Timeout | FlowErrorKind::Unavailable | FlowErrorKind::Other => OUTAGE,
            FlowErrorKind::InvalidRequest => return self.warn_single(error, flow),
            _ => return,
        };
        let count = if flow.fails_closed {
            &self.refused
        } else {
            &self.ran
        };
        count.fetch_add(1, Relaxed);
        let bit = if flow.fails_closed {
            kind << FAILS_CLOSED_SHIFT
        } else {
            kind
        };
        if self.logged.load(Relaxed) & bit == 0 {
            self.warn(error, flow, kind, bit);
        }
    }

    #[cold]
    fn warn(&self, error: &FlowError, flow: &UnreachableFlow<'_>, kind: u8, bit: u8) {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let since = *outage.since.get_or_insert(now);
        let ended = outage.ended.get(bit.trailing_zeros() as usize).copied();
        let quiet = ended
            .flatten()
            .is_some_and(|ended| now - ended < MIN_OUTAGE_GAP);
        let new = if quiet {
            IN_PROGRESS
        } else {
            IN_PROGRESS | bit
        };
        if self.logged.fetch_or(new, Relaxed) & bit != 0 || quiet {
            return;
        }
        drop(outage);
        let what = if kind == KEY_REFUSED {
            "the Aperture agent refuses the API key"
        } else {
            "no decisions from the Aperture agent"
        };
        let flows = self.ran.load(Relaxed) + self.refused.load(Relaxed);
        let follows = flow.consequence();
        log_event!(
            warn,
            agent = flow.agent.unwrap_or("all"),
            reason = %crate::flow::WithCauses(error),
            flows,
            since = ?(now - since),
            "{what}: {follows}"
        );
    }

    /// Counts a flow without a decision while other flows are decided. Logs a warning about such
    /// flows at most once per [`SINGLE_WARNING_INTERVAL`].
    #[cold]
    fn warn_single(&self, error: &FlowError, flow: &UnreachableFlow<'_>) {
        self.single_failures.fetch_add(1, Relaxed);
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if outage
            .single_warned
            .is_some_and(|last| now - last < SINGLE_WARNING_INTERVAL)
        {
            return;
        }
        outage.single_warned = Some(now);
        drop(outage);
        let flows = self.single_failures.swap(0, Relaxed);
        let follows = if flow.fails_closed {
            "were rejected because they fail closed"
        } else {
            "ran without limits"
        };
        log_event!(
            warn,
            agent = flow.agent.unwrap_or("all"),
            reason = %crate::flow::WithCauses(error),
            flows,
            "the Aperture agent did not decide some requests, which {follows}, while it decided \
             others"
        );
    }
}
