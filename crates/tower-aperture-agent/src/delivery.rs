//! Returns granted slots whose response did not reach the caller.
//!
//! Slots belong to the caller once the response that grants them was sent. A caller that has
//! disconnected by then never ends its flow, so its slots would be held until they expire.

use prometheus_client::metrics::counter::Counter;

use aperture_engine::engine::{CheckReport, EngineTicket};

/// The ticket of a flow that was granted slots, until the response has been sent. Dropping it
/// returns the slots.
#[derive(Debug)]
pub(super) struct SlotGrant(Option<EngineTicket>);

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

    /// The grant of a response that grants no slots.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    pub(super) const fn has_slots(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the guard of the response that grants the slots, if there are any.
    pub(super) fn into_delivery(self, undelivered: &Counter) -> Option<DeliveryGuard> {
        self.0.map(|ticket| DeliveryGuard {
            ticket: Some(ticket),
            undelivered: undelivered.clone(),
        })
    }
}

/// Leaves slots to the caller once the response body was read to its end, and counts grants that
/// were not delivered. Dropping it before returns the slots.
pub(super) struct DeliveryGuard {
    ticket: Option<EngineTicket>,
    undelivered: Counter,
}

impl DeliveryGuard {
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
