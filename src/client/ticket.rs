//! The ticket of a flow, from whichever backend decided about it.

use crate::flow::{
    CacheLookup, FlowError, FlowErrorKind, FlowOutcome, HttpExtras, Quota, SettleError, Ticket,
    Verdict,
};
use crate::meter::EndCounter;

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
    pub(super) end_counter: EndCounter,
}

#[derive(Debug)]
pub(super) enum TicketKind {
    #[cfg(feature = "embedded")]
    Embedded(crate::engine::EngineTicket),
    /// A flow without a layer, with the engine's report.
    #[cfg(feature = "embedded")]
    Reported(Box<super::reporting_engine::ReportedTicket>),
    #[cfg(feature = "remote")]
    Remote(crate::remote::RemoteFlow),
    #[cfg(feature = "test-util")]
    Scripted(super::scripted::ScriptedFlow),
}

impl From<TicketKind> for ClientTicket {
    #[inline]
    fn from(kind: TicketKind) -> Self {
        let end_counter = EndCounter::default();
        Self { kind, end_counter }
    }
}

impl Ticket for ClientTicket {
    fn end(self, outcome: FlowOutcome) {
        self.end_counter.count_end(outcome.status);
        match self.kind {
            #[cfg(feature = "embedded")]
            TicketKind::Embedded(ticket) => ticket.end(outcome),
            #[cfg(feature = "embedded")]
            TicketKind::Reported(ticket) => ticket.end(outcome),
            #[cfg(feature = "remote")]
            TicketKind::Remote(flow) => flow.end(outcome),
            #[cfg(feature = "test-util")]
            TicketKind::Scripted(flow) => flow.end(outcome),
        }
    }

    fn settles(&self) -> bool {
        self.kind.settles()
    }

    fn settle(&mut self, actual_tokens: f64) -> Result<(), SettleError> {
        self.kind.settle(actual_tokens)
    }

    fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        match self.kind {
            #[cfg(feature = "embedded")]
            TicketKind::Embedded(ref mut ticket) => ticket.take_cache_lookup(),
            #[cfg(feature = "embedded")]
            TicketKind::Reported(ref mut ticket) => ticket.take_cache_lookup(),
            // Every message has a lookup. Only the results in it show that the flow had cache keys.
            #[cfg(feature = "remote")]
            TicketKind::Remote(ref mut flow) => {
                let lookup = flow.take_lookup()?;
                let has_keys = lookup.result_cache_response.is_some()
                    || !lookup.global_cache_responses.is_empty();
                has_keys.then(|| super::cache::messages::read_lookup(&lookup))
            }
            #[cfg(feature = "test-util")]
            TicketKind::Scripted(_) => None,
        }
    }

    fn take_quotas(&mut self) -> Vec<Quota> {
        match self.kind {
            #[cfg(feature = "embedded")]
            TicketKind::Embedded(ref mut ticket) => ticket.take_quotas(),
            #[cfg(feature = "embedded")]
            TicketKind::Reported(ref mut ticket) => ticket.take_quotas(),
            #[cfg(feature = "remote")]
            TicketKind::Remote(ref flow) => flow.quotas(),
            #[cfg(feature = "test-util")]
            TicketKind::Scripted(_) => Vec::new(),
        }
    }

    fn take_http_extras(&mut self) -> Option<Box<HttpExtras>> {
        match self.kind {
            #[cfg(feature = "embedded")]
            TicketKind::Embedded(ref mut ticket) => ticket.take_http_extras(),
            #[cfg(feature = "embedded")]
            TicketKind::Reported(ref mut ticket) => ticket.take_http_extras(),
            #[cfg(feature = "remote")]
            TicketKind::Remote(ref mut flow) => flow.take_extras(),
            #[cfg(feature = "test-util")]
            TicketKind::Scripted(_) => None,
        }
    }
}

#[cfg(any(feature = "embedded", feature = "test-util"))]
pub(super) fn wrap<T>(
    verdict: Verdict<T>,
    kind: impl FnOnce(T) -> TicketKind,
) -> Verdict<ClientTicket> {
    match verdict {
        Verdict::Accepted(ticket) => Verdict::Accepted(kind(ticket).into()),
        Verdict::Rejected(denial, ticket) => Verdict::Rejected(denial, kind(ticket).into()),
        Verdict::Unreachable(error) => Verdict::Unreachable(error),
    }
}

/// Returns the verdict about a flow that has no control point.
pub(super) fn empty_control_point<T>() -> Verdict<T> {
    let why = "the control point is empty";
    Verdict::Unreachable(FlowError::new(FlowErrorKind::InvalidRequest, why))
}
