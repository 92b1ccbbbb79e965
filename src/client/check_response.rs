//! The Agent's response to the check of a flow, as a message.

use std::borrow::Cow;

use super::flow::Flow;
use super::ticket::TicketKind;
use crate::messages::check::CheckResponse;

impl Flow {
    /// Returns the Agent's entire response. Each call decodes it, or for an embedded engine builds
    /// the response that an Agent would have sent. `None` for unreachable flows and scripted clients.
    ///
    /// The method is part of the feature `raw-protocol`, because the response follows the version
    /// of `prost`.
    #[must_use]
    pub fn check_response(&self) -> Option<Cow<'_, CheckResponse>> {
        match &self.ticket()?.kind {
            TicketKind::Remote(flow) => Some(Cow::Owned(flow.decode_response())),
            #[cfg(feature = "embedded")]
            TicketKind::Reported(ticket) => Some(Cow::Owned(ticket.report().clone().into())),
            _ => None,
        }
    }
}
