//! Classifies responses, and says when a flow may end.

use std::sync::Arc;

use super::head::ResponseHead;
use crate::flow::FlowStatus;

pub(crate) type SharedClassifier = Arc<dyn ResponseClassifier>;

/// What the ticket of a flow learns at its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TicketEnd {
    pub(crate) status: FlowStatus,
    /// The tokens that the application settled the flow for.
    pub(crate) settled: Option<f64>,
}

impl From<FlowStatus> for TicketEnd {
    fn from(status: FlowStatus) -> Self {
        Self {
            status,
            settled: None,
        }
    }
}

/// Ends the ticket of a flow.
pub(crate) type EndTicket = Box<dyn FnOnce(TicketEnd) + Send>;

/// Classifies responses. Implemented for closures and for the state that a flow handle shares.
pub(crate) trait ResponseClassifier: Send + Sync {
    fn classify(&self, head: ResponseHead<'_>) -> FlowStatus;

    /// Records that the response is over, with its status and whether it failed. Returns how the
    /// flow ends, or `None` if a hold keeps the flow open: the caller then passes
    /// the ticket to [`defer`](Self::defer).
    fn close(&self, status: FlowStatus, failed: bool) -> Option<TicketEnd> {
        let _ = failed;
        Some(status.into())
    }

    /// Ends the ticket once no hold keeps the flow open.
    fn defer(&self, ticket: EndTicket, status: FlowStatus, failed: bool) {
        let _ = failed;
        ticket(status.into());
    }
}

impl<F> ResponseClassifier for F
where
    F: Fn(ResponseHead<'_>) -> FlowStatus + Send + Sync,
{
    fn classify(&self, head: ResponseHead<'_>) -> FlowStatus {
        self(head)
    }
}
