//! The guard that ends the flow of a request exactly once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use bytes::Buf;
use http::{HeaderMap, Method, StatusCode};

use super::classifier::{SharedClassifier, TicketEnd};
use super::grpc_web::GrpcWebReader;
use super::head::{GRPC_STATUS, MethodKind, ResponseHead};
use crate::flow::quota::fields;
use crate::flow::{CacheLookup, FlowOutcome, FlowStatus, HttpExtras, Ticket};
use crate::settlement;

/// Ends a flow exactly once: by a method, or at the latest by its drop.
///
/// The status of a drop depends on the phase of the flow.
pub(crate) struct FlowGuard<T: Ticket> {
    ticket: Option<T>,
    http_status: Option<StatusCode>,
    grpc_status: Option<u8>,
    /// The status that a regular end reports.
    status: FlowStatus,
    phase: Phase,
    method: MethodKind,
    /// Whether the response reports the remaining quotas.
    reports_quotas: bool,
    /// The bytes of the body that are not sent yet; [`UNKNOWN`] before sending and if the length is
    /// not known.
    remaining_bytes: u64,
    classify: Option<SharedClassifier>,
    /// Reads the gRPC-Web frames of the body until its end is classified. Boxed, because most
    /// bodies have none.
    grpc_web: Option<Box<GrpcWebReader>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The request was rejected: no work can fail.
    Rejected,
    /// The service works on the response, or the body is being polled: a drop is an error.
    Working,
    /// The body is being sent.
    Sending,
}

/// Marks an unknown length; no body is that long. Not an `Option`, because guards are moved often
/// and an `Option` is larger.
const UNKNOWN: u64 = u64::MAX;

impl<T: Ticket> FlowGuard<T> {
    /// Guards the flow of a request that runs.
    #[inline(always)]
    pub(crate) fn accepted(
        ticket: T,
        method: &Method,
        classify: Option<SharedClassifier>,
        reports_quotas: bool,
    ) -> Self {
        Self {
            ticket: Some(ticket),
            http_status: None,
            grpc_status: None,
            status: FlowStatus::Ok,
            phase: Phase::Working,
            method: MethodKind::new(method),
            reports_quotas,
            remaining_bytes: UNKNOWN,
            classify,
            grpc_web: None,
        }
    }

    /// Guards the flow of a request that is rejected.
    pub(crate) fn rejected(ticket: T, reports_quotas: bool) -> Self {
        Self {
            ticket: Some(ticket),
            http_status: None,
            grpc_status: None,
            status: FlowStatus::Unset,
            phase: Phase::Rejected,
            method: MethodKind::Other,
            reports_quotas,
            remaining_bytes: UNKNOWN,
            classify: None,
            grpc_web: None,
        }
    }

    /// Returns the kind of the request's method.
    pub(crate) const fn method(&self) -> MethodKind {
        self.method
    }

    /// Returns true if the flow can be settled.
    pub(crate) fn settles(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::settles)
    }

    pub(crate) fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        self.ticket.as_mut()?.take_cache_lookup()
    }

    /// Adds the quotas of the flow to the headers of its response, if enabled.
    #[inline]
    pub(crate) fn append_rate_limits(&mut self, headers: &mut HeaderMap) {
        if self.reports_quotas
            && let Some(ticket) = &mut self.ticket
        {
            let rejected = self.phase == Phase::Rejected;
            ticket.take_quotas_with(&mut |quotas| fields::append(headers, quotas, rejected));
        }
    }

    pub(crate) fn take_http_extras(&mut self) -> Option<Box<HttpExtras>> {
        self.ticket.as_mut()?.take_http_extras()
    }

    pub(crate) fn take_classify(&mut self) -> Option<SharedClassifier> {
        self.classify.take()
    }

    pub(crate) fn set_classify(&mut self, classify: SharedClassifier) {
        self.classify = Some(classify);
    }

    pub(crate) fn http_status(&mut self, status: StatusCode) {
        self.http_status = Some(status);
    }

    /// Classifies a head or trailers. An error is never replaced by a later status.
    pub(crate) fn classify_head(&mut self, head: ResponseHead<'_>) {
        let grpc_code = head.grpc_code();
        let status = match &self.classify {
            Some(classify) => classify.classify(head),
            None => head.status_with(grpc_code),
        };
        if self.status != FlowStatus::Error {
            self.status = status;
        }
        self.grpc_status = grpc_code.or(self.grpc_status);
    }

    pub(crate) fn classify_trailers(&mut self, trailers: &HeaderMap) {
        if trailers.contains_key(&GRPC_STATUS) {
            self.grpc_web = None;
        }
        let status = self.http_status.unwrap_or_default();
        self.classify_head(ResponseHead::trailers(status, trailers));
    }

    /// Tells the ticket that the head of the response is there.
    #[inline]
    pub(crate) fn response_started(&mut self) {
        let mut outcome = FlowOutcome::new(self.status);
        outcome.http_status = self.http_status;
        if let Some(ticket) = &mut self.ticket {
            ticket.response_started(outcome);
        }
    }

    /// Prepares for the body that follows these headers: a gRPC-Web body has its trailers in its
    /// data.
    #[inline]
    pub(crate) fn watch_body(&mut self, headers: &HeaderMap) {
        self.grpc_web = GrpcWebReader::for_response(headers);
    }

    /// Reads data of the body. Returns true if it completed the trailers of a gRPC-Web body.
    #[inline]
    pub(crate) fn read_data(&mut self, data: &impl Buf) -> bool {
        let web = self.grpc_web.as_mut();
        web.is_some_and(|web| web.read(data))
    }

    /// Classifies the trailers that the data of a gRPC-Web body contained. Called at the end of the
    /// body.
    #[inline]
    pub(crate) fn classify_body(&mut self) {
        if let Some(web) = self.grpc_web.take()
            && let Some(trailers) = web.into_trailers()
        {
            self.classify_trailers(&trailers);
        }
    }

    /// Starts or resumes the sending phase, in which a drop is a regular end if no bytes remain.
    pub(crate) fn sending(&mut self, remaining_bytes: Option<u64>) {
        self.phase = Phase::Sending;
        self.remaining_bytes = remaining_bytes.unwrap_or(UNKNOWN);
    }

    /// Prepares for a poll of the body, and returns the remaining bytes. If the poll panics, a
    /// later drop must not count as a regular end.
    pub(crate) fn begin_poll(&mut self) -> Option<u64> {
        self.phase = Phase::Working;
        let remaining = std::mem::replace(&mut self.remaining_bytes, UNKNOWN);
        (remaining != UNKNOWN).then_some(remaining)
    }

    /// Called when the body is dropped. The body may have reached its end without another poll.
    ///
    /// Skips `is_over` for a gRPC-Web body without its trailers: that body ends as an error.
    pub(crate) fn body_dropped(&mut self, is_over: impl FnOnce() -> bool) {
        let query = self.phase == Phase::Sending
            && self.remaining_bytes != 0
            && self.grpc_web.is_none()
            && !thread::panicking();
        // A panic here would unwind the task of the connection and end other requests on it.
        if query && catch_unwind(AssertUnwindSafe(is_over)).unwrap_or(false) {
            self.remaining_bytes = 0;
        }
    }

    /// Ends the flow with the status recorded so far. Later calls have no effect.
    // By reference: moving the guard would cost more than the end itself.
    pub(crate) fn finish(&mut self) {
        self.end(self.status, false, false);
    }

    /// Ends the flow as an error. Later calls have no effect.
    pub(crate) fn fail(&mut self) {
        self.end(FlowStatus::Error, true, false);
    }

    /// Ends a flow whose request has not run because it is checked again.
    pub(crate) fn withdraw(&mut self) {
        self.end(FlowStatus::Unset, false, false);
    }

    #[inline]
    fn end(&mut self, status: FlowStatus, failed: bool, abandoned: bool) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let mut outcome = FlowOutcome::new(status).with_abandoned(abandoned);
        outcome.http_status = self.http_status;
        if let Some(code) = self.grpc_status {
            outcome = outcome.with_grpc_status(code);
        }
        match &self.classify {
            None => ticket.end(outcome),
            Some(classify) => end_classified(classify, ticket, outcome, status, failed),
        }
    }
}

/// Ends a flow as its classifier says, or leaves it to the holds of the flow.
#[inline(never)]
fn end_classified<T: Ticket>(
    classify: &SharedClassifier,
    mut ticket: T,
    mut outcome: FlowOutcome,
    status: FlowStatus,
    failed: bool,
) {
    let end = move |how: TicketEnd| {
        settlement::apply(&mut ticket, how.settled);
        outcome.status = how.status;
        ticket.end(outcome);
    };
    match classify.close(status, failed) {
        Some(how) => end(how),
        None => classify.defer(Box::new(end), status, failed),
    }
}

impl<T: Ticket> Drop for FlowGuard<T> {
    #[inline]
    fn drop(&mut self) {
        if self.ticket.is_none() {
            return;
        }
        // An abandoned flow has no regular end, so its outcome is not known.
        let (status, abandoned) = match self.phase {
            Phase::Rejected => (FlowStatus::Unset, false),
            Phase::Sending if self.remaining_bytes == 0 && !thread::panicking() => {
                (self.status, false)
            }
            Phase::Sending | Phase::Working => (FlowStatus::Error, true),
        };
        self.end(status, abandoned, abandoned);
    }
}
