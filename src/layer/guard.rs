use std::thread;

use http::StatusCode;

use super::config::Classify;
use super::head::ResponseHead;
use crate::flow::{CacheLookup, FlowOutcome, FlowStatus, HttpExtras, Ticket};

/// Ends a flow exactly once: when told to, or when dropped.
///
/// What a drop means depends on how far the flow has come.
pub(crate) struct Guard<T: Ticket> {
    ticket: Option<T>,
    http_status: Option<StatusCode>,
    /// What a plain end reports.
    known: FlowStatus,
    phase: Phase,
    /// Of the body, while it is sent; [`UNKNOWN`] otherwise.
    left: u64,
    classify: Option<Classify>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Turned away: there is no work that could fail.
    Rejected,
    /// At work without a response, or inside the body's code: a drop is an error.
    Working,
    /// A body is on its way.
    Sending,
}

/// No body is as long. Not an `Option`: a guard is moved often, and each word counts.
const UNKNOWN: u64 = u64::MAX;

impl<T: Ticket> Guard<T> {
    pub(crate) fn accepted(ticket: T, classify: Option<Classify>) -> Self {
        Self {
            ticket: Some(ticket),
            http_status: None,
            known: FlowStatus::Ok,
            phase: Phase::Working,
            left: UNKNOWN,
            classify,
        }
    }

    pub(crate) fn rejected(ticket: T) -> Self {
        Self {
            ticket: Some(ticket),
            http_status: None,
            known: FlowStatus::Unset,
            phase: Phase::Rejected,
            left: UNKNOWN,
            classify: None,
        }
    }

    pub(crate) fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        self.ticket.as_mut()?.take_cache_lookup()
    }

    pub(crate) fn take_http_extras(&mut self) -> Option<Box<HttpExtras>> {
        self.ticket.as_mut()?.take_http_extras()
    }

    pub(crate) fn http_status(&mut self, status: StatusCode) {
        self.http_status = Some(status);
    }

    /// Judges a head or trailers. Once an error, always an error.
    pub(crate) fn judge(&mut self, head: ResponseHead<'_>) {
        let status = match &self.classify {
            Some(classify) => classify(head),
            None if head.is_error() => FlowStatus::Error,
            None => FlowStatus::Ok,
        };
        if self.known != FlowStatus::Error {
            self.known = status;
        }
    }

    pub(crate) fn judge_trailers(&mut self, trailers: &http::HeaderMap) {
        let status = self.http_status.unwrap_or_default();
        self.judge(ResponseHead::trailers(status, trailers));
    }

    /// From now on a drop is a plain end once `left` is 0.
    pub(crate) fn sending(&mut self, left: Option<u64>) {
        self.phase = Phase::Sending;
        self.left = left.unwrap_or(UNKNOWN);
    }

    /// Enters the body's code: should that panic, a later drop must not look like a plain end.
    pub(crate) fn enter(&mut self) -> Option<u64> {
        self.phase = Phase::Working;
        let left = std::mem::replace(&mut self.left, UNKNOWN);
        (left != UNKNOWN).then_some(left)
    }

    /// The flow came to its end; nothing that follows counts.
    // Where the guard is: to move it would cost more than the end.
    pub(crate) fn finish(&mut self) {
        self.end(self.known);
    }

    /// The flow failed; nothing that follows counts.
    pub(crate) fn fail(&mut self) {
        self.end(FlowStatus::Error);
    }

    fn end(&mut self, status: FlowStatus) {
        if let Some(ticket) = self.ticket.take() {
            let mut outcome = FlowOutcome::new(status);
            outcome.http_status = self.http_status;
            ticket.end(outcome);
        }
    }
}

impl<T: Ticket> Drop for Guard<T> {
    #[inline]
    fn drop(&mut self) {
        if self.ticket.is_none() {
            return;
        }
        let status = match self.phase {
            Phase::Rejected => FlowStatus::Unset,
            Phase::Sending if self.left == 0 && !thread::panicking() => self.known,
            Phase::Sending | Phase::Working => FlowStatus::Error,
        };
        self.end(status);
    }
}
