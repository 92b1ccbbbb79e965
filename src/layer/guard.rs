//! The guard that ends the flow of a request exactly once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use bytes::Buf;
use http::{HeaderMap, StatusCode};

use super::config::Classify;
use super::grpc_web::GrpcWebReader;
use super::head::{GRPC_STATUS, ResponseHead};
use super::hold::EndTicket;
use super::rate_limit;
use crate::flow::{CacheLookup, FlowOutcome, FlowStatus, HttpExtras, Ticket};

/// Says how responses went; closures do.
pub(crate) trait Judge: Send + Sync {
    fn judge(&self, head: ResponseHead<'_>) -> FlowStatus;

    /// The response is over, as judged or because it failed. Returns the status that the flow ends
    /// with, `None` when something else keeps the flow open: the ticket then goes to
    /// [`keep`](Self::keep).
    fn close(&self, status: FlowStatus, failed: bool) -> Option<FlowStatus> {
        let _ = failed;
        Some(status)
    }

    /// Ends the ticket once nothing keeps the flow open any more.
    fn keep(&self, ticket: EndTicket, status: FlowStatus, failed: bool) {
        let _ = failed;
        ticket(status);
    }
}

impl<F> Judge for F
where
    F: Fn(ResponseHead<'_>) -> FlowStatus + Send + Sync,
{
    fn judge(&self, head: ResponseHead<'_>) -> FlowStatus {
        self(head)
    }
}

/// Ends a flow exactly once: when told to, or when dropped.
///
/// What a drop means depends on how far the flow has come.
pub(crate) struct Guard<T: Ticket> {
    ticket: Option<T>,
    http_status: Option<StatusCode>,
    /// What a plain end reports.
    known: FlowStatus,
    phase: Phase,
    /// The response is to tell the quotas.
    quotas: bool,
    /// Of the body, while it is sent; [`UNKNOWN`] otherwise.
    left: u64,
    classify: Option<Classify>,
    /// Reads the body's frames until its end is judged. Boxed: most bodies have none.
    grpc_web: Option<Box<GrpcWebReader>>,
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
    pub(crate) fn accepted(ticket: T, classify: Option<Classify>, quotas: bool) -> Self {
        Self {
            ticket: Some(ticket),
            http_status: None,
            known: FlowStatus::Ok,
            phase: Phase::Working,
            quotas,
            left: UNKNOWN,
            classify,
            grpc_web: None,
        }
    }

    pub(crate) fn rejected(ticket: T, quotas: bool) -> Self {
        Self {
            ticket: Some(ticket),
            http_status: None,
            known: FlowStatus::Unset,
            phase: Phase::Rejected,
            quotas,
            left: UNKNOWN,
            classify: None,
            grpc_web: None,
        }
    }

    pub(crate) fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        self.ticket.as_mut()?.take_cache_lookup()
    }

    /// Adds the quotas of the flow to its response, if that is wanted.
    #[inline]
    pub(crate) fn tell_quotas(&mut self, headers: &mut HeaderMap) {
        if self.quotas
            && let Some(ticket) = &mut self.ticket
        {
            let rejected = self.phase == Phase::Rejected;
            rate_limit::add(headers, &ticket.take_quotas(), rejected);
        }
    }

    pub(crate) fn take_http_extras(&mut self) -> Option<Box<HttpExtras>> {
        self.ticket.as_mut()?.take_http_extras()
    }

    pub(crate) fn take_classify(&mut self) -> Option<Classify> {
        self.classify.take()
    }

    pub(crate) fn judge_by(&mut self, classify: Classify) {
        self.classify = Some(classify);
    }

    pub(crate) fn http_status(&mut self, status: StatusCode) {
        self.http_status = Some(status);
    }

    /// Judges a head or trailers. Once an error, always an error.
    pub(crate) fn judge(&mut self, head: ResponseHead<'_>) {
        let status = match &self.classify {
            Some(classify) => classify.judge(head),
            None => head.judged(),
        };
        if self.known != FlowStatus::Error {
            self.known = status;
        }
    }

    pub(crate) fn judge_trailers(&mut self, trailers: &HeaderMap) {
        if trailers.contains_key(&GRPC_STATUS) {
            self.grpc_web = None;
        }
        let status = self.http_status.unwrap_or_default();
        self.judge(ResponseHead::trailers(status, trailers));
    }

    /// The body that follows these headers will be sent, and is to be judged by what is in it.
    #[inline]
    pub(crate) fn watch_body(&mut self, headers: &HeaderMap) {
        self.grpc_web = GrpcWebReader::for_response(headers);
    }

    /// Looks at data of the body. Returns true when that completed the trailers in it.
    #[inline]
    pub(crate) fn read_data(&mut self, data: &impl Buf) -> bool {
        let web = self.grpc_web.as_mut();
        web.is_some_and(|web| web.read(data))
    }

    /// The body is over: judges it by what was in it.
    #[inline]
    pub(crate) fn judge_body(&mut self) {
        if let Some(web) = self.grpc_web.take()
            && let Some(trailers) = web.into_trailers()
        {
            self.judge_trailers(&trailers);
        }
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

    /// The body is dropped. It may have come to its end without being polled again.
    ///
    /// A body whose own trailers have not come is not asked: without them it is an error.
    pub(crate) fn body_dropped(&mut self, is_over: impl FnOnce() -> bool) {
        let ask = self.phase == Phase::Sending
            && self.left != 0
            && self.grpc_web.is_none()
            && !thread::panicking();
        // A panic here would be that of a connection, and take other requests along.
        if ask && catch_unwind(AssertUnwindSafe(is_over)).unwrap_or(false) {
            self.left = 0;
        }
    }

    /// The flow came to its end; nothing that follows counts.
    // Where the guard is: to move it would cost more than the end.
    pub(crate) fn finish(&mut self) {
        self.end(self.known, false);
    }

    /// The flow failed; nothing that follows counts.
    pub(crate) fn fail(&mut self) {
        self.end(FlowStatus::Error, true);
    }

    /// Ends a flow whose request did not run, because it is asked about anew.
    pub(crate) fn withdraw(&mut self) {
        self.end(FlowStatus::Unset, false);
    }

    fn end(&mut self, status: FlowStatus, failed: bool) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let http_status = self.http_status;
        let end = move |status| {
            let mut outcome = FlowOutcome::new(status);
            outcome.http_status = http_status;
            ticket.end(outcome);
        };
        match &self.classify {
            None => end(status),
            Some(classify) => match classify.close(status, failed) {
                Some(status) => end(status),
                None => classify.keep(Box::new(end), status, failed),
            },
        }
    }
}

impl<T: Ticket> Drop for Guard<T> {
    #[inline]
    fn drop(&mut self) {
        if self.ticket.is_none() {
            return;
        }
        let (status, failed) = match self.phase {
            Phase::Rejected => (FlowStatus::Unset, false),
            Phase::Sending if self.left == 0 && !thread::panicking() => (self.known, false),
            Phase::Sending | Phase::Working => (FlowStatus::Error, true),
        };
        self.end(status, failed);
    }
}
