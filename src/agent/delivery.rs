//! Slots that were granted in an answer belong to the caller once the answer has left.
//!
//! A caller that is gone by then will never end its flow: without this its slots would be held
//! until they expire.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tonic::Response;

use crate::engine::{CheckReport, EngineTicket};

/// Holds what a flow was granted until the answer has left.
pub(super) struct Granted(Option<EngineTicket>);

/// Travels from the handler to the body of the answer.
#[derive(Clone)]
struct Parcel(Arc<Mutex<Option<EngineTicket>>>);

impl Granted {
    /// Most flows are granted nothing that would have to be given back.
    pub(super) fn new(report: &CheckReport, ticket: EngineTicket) -> Self {
        let mut decisions = report.limiter_decisions.iter();
        if report.accepted() && decisions.any(|decision| decision.details.slot().is_some()) {
            return Self(Some(ticket));
        }
        ticket.leave_open();
        Self(None)
    }

    /// The answer, and with it what it grants.
    pub(super) fn deliver<T>(self, answer: T) -> Response<T> {
        let mut response = Response::new(answer);
        if let Some(ticket) = self.0 {
            let parcel = Parcel(Arc::new(Mutex::new(Some(ticket))));
            response.extensions_mut().insert(parcel);
        }
        response
    }
}

/// Takes what the handler granted along with the body.
pub(super) fn take<B>(response: &mut http::Response<B>) -> Option<EngineTicket> {
    let parcel = response.extensions_mut().remove::<Parcel>()?;
    let mut ticket = parcel.0.lock().unwrap_or_else(PoisonError::into_inner);
    ticket.take()
}

/// Leaves slots to the caller when the answer was read to its end, and counts those that it was
/// not.
pub(super) struct Delivery {
    ticket: Option<EngineTicket>,
    undelivered: Counter,
}

impl Delivery {
    pub(super) fn new(ticket: EngineTicket, undelivered: &Counter) -> Self {
        Self {
            ticket: Some(ticket),
            undelivered: undelivered.clone(),
        }
    }

    pub(super) fn done(mut self) {
        if let Some(ticket) = self.ticket.take() {
            ticket.leave_open();
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.undelivered.inc();
        }
    }
}
