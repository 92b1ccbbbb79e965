//! The ticket of a flow, from whichever backend decided about it.

use super::backend::{Backend, EmbeddedBackend, RemoteBackend, ReportingBackend, Script};
use crate::flow::{
    CacheLookup, Check, FlowError, FlowErrorKind, FlowOutcome, HttpExtras, Quota, SettleError,
    Ticket, Verdict,
};
use crate::meter::{ClientEndCounter, EndCounter};

/// The ticket of a flow of an [`ApertureClient`](crate::ApertureClient).
///
/// Layers keep it until the response body ends. Without a layer, use a [`Flow`](crate::Flow).
///
/// ```
/// use tower_aperture::client::ClientTicket;
/// use tower_aperture::layer::Aperture;
/// use tower_aperture::{ApertureClient, Decider};
///
/// fn is_ticket_of<D: Decider<Ticket = ClientTicket>>() {}
/// is_ticket_of::<ApertureClient>();
/// ```
#[derive(Debug)]
pub struct ClientTicket {
    pub(super) kind: TicketKind,
    pub(super) end_counter: ClientEndCounter,
}

#[derive(Debug)]
pub(super) enum TicketKind {
    Embedded(<EmbeddedBackend as Backend>::Ticket),
    /// A flow without a layer, with the engine's report.
    Reported(<EmbeddedBackend as ReportingBackend>::ReportedTicket),
    Remote(<RemoteBackend as Backend>::Ticket),
    Scripted(<Script as Backend>::Ticket),
}

impl From<TicketKind> for ClientTicket {
    #[inline]
    fn from(kind: TicketKind) -> Self {
        let end_counter = ClientEndCounter::default();
        Self { kind, end_counter }
    }
}

impl Ticket for ClientTicket {
    #[inline(always)]
    fn end(self, outcome: FlowOutcome) {
        self.end_counter.count_end(outcome.status);
        match self.kind {
            TicketKind::Embedded(ticket) => ticket.end(outcome),
            TicketKind::Reported(ticket) => ticket.end(outcome),
            TicketKind::Remote(ticket) => ticket.end(outcome),
            TicketKind::Scripted(ticket) => ticket.end(outcome),
        }
    }

    #[inline]
    fn needs_end(&self) -> bool {
        let of_kind = match &self.kind {
            TicketKind::Embedded(ticket) => ticket.needs_end(),
            TicketKind::Reported(_) | TicketKind::Remote(_) | TicketKind::Scripted(_) => true,
        };
        of_kind || self.end_counter.is_active()
    }

    fn response_started(&mut self, outcome: FlowOutcome) {
        match &mut self.kind {
            TicketKind::Embedded(ticket) => ticket.response_started(outcome),
            TicketKind::Reported(ticket) => ticket.response_started(outcome),
            TicketKind::Remote(ticket) => ticket.response_started(outcome),
            TicketKind::Scripted(ticket) => ticket.response_started(outcome),
        }
    }

    fn settles(&self) -> bool {
        self.kind.settles()
    }

    fn settle(&mut self, actual_tokens: f64) -> Result<(), SettleError> {
        self.kind.settle(actual_tokens)
    }

    fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        match &mut self.kind {
            TicketKind::Embedded(ticket) => ticket.take_cache_lookup(),
            TicketKind::Reported(ticket) => ticket.take_cache_lookup(),
            TicketKind::Remote(ticket) => ticket.take_cache_lookup(),
            TicketKind::Scripted(ticket) => ticket.take_cache_lookup(),
        }
    }

    fn take_quotas(&mut self) -> Vec<Quota> {
        match &mut self.kind {
            TicketKind::Embedded(ticket) => ticket.take_quotas(),
            TicketKind::Reported(ticket) => ticket.take_quotas(),
            TicketKind::Remote(ticket) => ticket.take_quotas(),
            TicketKind::Scripted(ticket) => ticket.take_quotas(),
        }
    }

    fn take_quotas_with(&mut self, read: &mut dyn FnMut(&[Quota])) {
        match &mut self.kind {
            TicketKind::Embedded(ticket) => ticket.take_quotas_with(read),
            TicketKind::Reported(ticket) => ticket.take_quotas_with(read),
            TicketKind::Remote(ticket) => ticket.take_quotas_with(read),
            TicketKind::Scripted(ticket) => ticket.take_quotas_with(read),
        }
    }

    fn take_http_extras(&mut self) -> Option<Box<HttpExtras>> {
        match &mut self.kind {
            TicketKind::Embedded(ticket) => ticket.take_http_extras(),
            TicketKind::Reported(ticket) => ticket.take_http_extras(),
            TicketKind::Remote(ticket) => ticket.take_http_extras(),
            TicketKind::Scripted(ticket) => ticket.take_http_extras(),
        }
    }
}

/// Converts the ticket or the future of a check.
pub(super) fn convert_check<T, P, U, Q>(
    check: Check<T, P>,
    ticket: impl FnOnce(T) -> U,
    pending: impl FnOnce(P) -> Q,
) -> Check<U, Q> {
    match check {
        Check::Ready(verdict) => Check::Ready(convert(verdict, ticket)),
        Check::Pending(it) => Check::Pending(pending(it)),
    }
}

/// Converts the ticket of a verdict.
fn convert<T, U>(verdict: Verdict<T>, ticket: impl FnOnce(T) -> U) -> Verdict<U> {
    match verdict {
        Verdict::Accepted(it) => Verdict::Accepted(ticket(it)),
        Verdict::Rejected(denial, it) => Verdict::Rejected(denial, ticket(it)),
        Verdict::Unreachable(error) => Verdict::Unreachable(error),
    }
}

/// Converts a verdict of a backend.
pub(super) fn wrap<T>(
    verdict: Verdict<T>,
    kind: impl FnOnce(T) -> TicketKind,
) -> Verdict<ClientTicket> {
    convert(verdict, |ticket| kind(ticket).into())
}

/// Returns the verdict about a flow that has no control point.
pub(super) fn empty_control_point<T>() -> Verdict<T> {
    let why = "the control point is empty";
    Verdict::Unreachable(FlowError::new(FlowErrorKind::InvalidRequest, why))
}
