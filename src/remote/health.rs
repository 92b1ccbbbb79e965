//! Logs that flows are not decided about, whichever Agent it is that does not answer.
//!
//! Two kinds of lines: a warning when an outage begins, with the line of its end, and a warning about
//! single flows without a decision while other flows are decided about. Both are limited in number,
//! and carry the count of what they leave out.

use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::flow::{FlowError, FlowErrorKind};

/// An outage that begins so soon after the last one of its kind is warned about when the time is
/// over: Agents that answer now and then would otherwise fill the log.
const QUIET: Duration = Duration::from_secs(10);

/// The time between two warnings about single flows.
const BETWEEN_SINGLE: Duration = Duration::from_secs(60);

/// Bits of `said`, one for each kind of warning.
const OUTAGE: u8 = 1;
const REFUSED_KEY: u8 = 2;
/// How far the bits are shifted for flows that fail closed.
const FAILS_CLOSED: u32 = 2;
/// Bits that stand for a warning.
const KINDS: usize = 4;
/// An outage is under way, and may not have been logged.
const UNDER_WAY: u8 = 1 << 7;

/// Counts flows without a decision, and logs when that begins and ends.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// The kinds of warnings that were logged in this outage.
    said: AtomicU8,
    decisions: AtomicU64,
    /// Flows without a decision since the last recovery that was logged: those that ran, and those
    /// that were refused.
    ran: AtomicU64,
    refused: AtomicU64,
    /// Flows without a decision while others were decided about, since the last warning.
    single: AtomicU64,
    shut_down: AtomicBool,
    outage: Mutex<Outage>,
}

#[derive(Debug, Default)]
struct Outage {
    since: Option<Instant>,
    /// When the last one that was logged ended, for each bit of `said`.
    ended: [Option<Instant>; KINDS],
    /// When single flows were warned about last.
    single: Option<Instant>,
}

/// A flow that became unreachable.
pub(super) struct Failed<'a> {
    /// The Agent that was asked last; only logs name it.
    #[cfg_attr(not(feature = "tracing"), allow(dead_code))]
    pub(super) agent: Option<&'a str>,
    /// How many decisions there had been when the check began.
    pub(super) decisions: u64,
    /// Other Agents could have decided.
    pub(super) others: bool,
    /// The flow does not run: ramp mode, or a layer that fails closed.
    pub(super) refused: bool,
}

impl Failed<'_> {
    const fn follows(&self) -> &'static str {
        if self.refused {
            "requests that fail closed (ramp mode, FailureMode::Closed) are now refused"
        } else {
            "requests now run without limits"
        }
    }
}

impl Health {
    pub(super) fn is_shut_down(&self) -> bool {
        self.shut_down.load(SeqCst)
    }

    pub(super) fn shut_down(&self) {
        self.shut_down.store(true, SeqCst);
    }

    /// An Agent decided: an outage is over.
    pub(super) fn decided(&self) {
        self.decisions.fetch_add(1, Relaxed);
        if self.said.load(Relaxed) != 0 {
            self.recovered();
        }
    }

    #[cold]
    fn recovered(&self) {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        let said = self.said.swap(0, Relaxed);
        if said == 0 {
            return;
        }
        let now = Instant::now();
        let _lasted = outage.since.take().map(|since| now - since);
        if said == UNDER_WAY {
            // Its flows are in the count of the next line.
            return;
        }
        for (bit, ended) in outage.ended.iter_mut().enumerate() {
            if said & (1 << bit) != 0 {
                *ended = Some(now);
            }
        }
        drop(outage);
        let (_ran, _refused) = (self.ran.swap(0, Relaxed), self.refused.swap(0, Relaxed));
        log_event!(
            info,
            lasted = ?_lasted.unwrap_or_default(),
            ran = _ran,
            refused = _refused,
            "the Aperture agent decides again; meanwhile `ran` requests ran without limits and \
             `refused` were refused"
        );
    }

    /// How many decisions have come so far.
    pub(super) fn decisions(&self) -> u64 {
        self.decisions.load(Relaxed)
    }

    /// Counts a flow that became unreachable, and warns with the first of its kind in an outage.
    pub(super) fn flow_failed(&self, error: &FlowError, failed: &Failed<'_>) {
        let decided = self.decisions() != failed.decisions;
        let kind = match error.kind() {
            FlowErrorKind::Unauthenticated => REFUSED_KEY,
            // Others were answered meanwhile: one check took long, the Agent is not away. Late
            // flows have a count and a warning of their own.
            FlowErrorKind::Timeout if decided && error.is_late() => return,
            FlowErrorKind::Timeout if decided => return self.single(error, failed),
            // One Agent is away, which is logged when it is given up.
            FlowErrorKind::Unavailable if decided && failed.others => {
                return self.single(error, failed);
            }
            FlowErrorKind::Timeout | FlowErrorKind::Unavailable | FlowErrorKind::Other => OUTAGE,
            FlowErrorKind::InvalidRequest => return self.single(error, failed),
            _ => return,
        };
        let count = if failed.refused {
            &self.refused
        } else {
            &self.ran
        };
        count.fetch_add(1, Relaxed);
        let bit = if failed.refused {
            kind << FAILS_CLOSED
        } else {
            kind
        };
        if self.said.load(Relaxed) & bit == 0 {
            self.warn(error, failed, kind, bit);
        }
    }

    #[cold]
    #[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
    fn warn(&self, error: &FlowError, failed: &Failed<'_>, kind: u8, bit: u8) {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let since = *outage.since.get_or_insert(now);
        let ended = outage.ended.get(bit.trailing_zeros() as usize).copied();
        let quiet = ended.flatten().is_some_and(|ended| now - ended < QUIET);
        let new = if quiet { UNDER_WAY } else { UNDER_WAY | bit };
        if self.said.fetch_or(new, Relaxed) & bit != 0 || quiet {
            return;
        }
        drop(outage);
        let what = if kind == REFUSED_KEY {
            "the Aperture agent refuses the API key"
        } else {
            "no decisions from the Aperture agent"
        };
        let flows = self.ran.load(Relaxed) + self.refused.load(Relaxed);
        let follows = failed.follows();
        log_event!(
            warn,
            agent = failed.agent.unwrap_or("all"),
            reason = %crate::flow::WithCauses(error),
            flows,
            since = ?(now - since),
            "{what}: {follows}"
        );
    }

    /// Counts a flow without a decision while other flows are decided about, and warns about such
    /// flows once in [`BETWEEN_SINGLE`].
    #[cold]
    #[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
    fn single(&self, error: &FlowError, failed: &Failed<'_>) {
        self.single.fetch_add(1, Relaxed);
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if outage.single.is_some_and(|at| now - at < BETWEEN_SINGLE) {
            return;
        }
        outage.single = Some(now);
        drop(outage);
        let flows = self.single.swap(0, Relaxed);
        let follows = if failed.refused {
            "were refused because they fail closed"
        } else {
            "ran without limits"
        };
        log_event!(
            warn,
            agent = failed.agent.unwrap_or("all"),
            reason = %crate::flow::WithCauses(error),
            flows,
            "no decision about single requests, which {follows}, while the Aperture agent decides \
             about others"
        );
    }
}
