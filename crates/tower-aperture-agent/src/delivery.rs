//! Returns granted slots whose response did not reach the caller.
//!
//! Slots belong to the caller once the response that grants them was sent. A caller that has
//! disconnected by then never ends its flow, so its slots would be held until they expire.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tonic::Response;

use aperture_engine::engine::{CheckReport, EngineTicket};

/// The ticket of a flow that was granted slots, until the response has been sent.
pub(super) struct SlotGrant(Option<EngineTicket>);

/// Carries the ticket from the handler to the body of the response, as an extension.
#[derive(Clone)]
struct TicketExtension(Arc<Mutex<Option<EngineTicket>>>);

impl SlotGrant {
    /// Keeps the ticket only if the flow was granted slots; most flows have none to return.
    pub(super) fn new(report: &CheckReport, ticket: EngineTicket) -> Self {
        let mut decisions = report.limiter_decisions.iter();
        if report.accepted() && decisions.any(|decision| decision.details.slot().is_some()) {
            return Self(Some(ticket));
        }
        ticket.leave_open();
        Self(None)
    }

    /// Returns the response with the ticket in its extensions.
    pub(super) fn into_response<T>(self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        if let Some(ticket) = self.0 {
            let extension = TicketExtension(Arc::new(Mutex::new(Some(ticket))));
            response.extensions_mut().insert(extension);
        }
        response
    }
}

/// Takes the ticket that the handler attached to the response.
pub(super) fn take_ticket<B>(response: &mut http::Response<B>) -> Option<EngineTicket> {
    let extension = response.extensions_mut().remove::<TicketExtension>()?;
    let mut ticket = extension.0.lock().unwrap_or_else(PoisonError::into_inner);
    ticket.take()
}

/// Leaves slots to the caller once the response body was read to its end, and counts grants that
/// were not delivered. Dropping it before returns the slots.
pub(super) struct DeliveryGuard {
    ticket: Option<EngineTicket>,
    undelivered: Counter,
}

impl DeliveryGuard {
    pub(super) fn new(ticket: EngineTicket, undelivered: &Counter) -> Self {
        Self {
            ticket: Some(ticket),
            undelivered: undelivered.clone(),
        }
    }

    /// Records that the caller received the response.
    pub(super) fn complete(mut self) {
        if let Some(ticket) = self.ticket.take() {
            ticket.leave_open();
        }
    }
}

impl Drop for DeliveryGuard {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.undelivered.inc();
        }
    }
}
