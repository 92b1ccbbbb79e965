//! Settles flows that were started without a layer.

use super::flow::Flow;
use super::ticket::TicketKind;
use crate::flow::{FlowDecision, SettleError, Ticket};

impl Flow {
    /// Settles the flow with the tokens that it cost. The check took an estimate, and the end of the
    /// flow corrects the buckets that the estimate came from: for tokens of a language model, bytes
    /// or rows, which are known afterwards.
    ///
    /// The estimate is the `tokens_label_key` label of a rate limiter or quota scheduler, or the
    /// `tokens` of a quota scheduler's workload. Buckets that count one token for each flow stay as
    /// they are. The last call before the end counts, also if the flow is dropped then; a flow that
    /// is never settled costs its estimate. A rejected or unreachable flow took no tokens, so the
    /// call has no effect.
    #[cfg_attr(
        feature = "embedded",
        doc = "See [costs that are known afterwards](crate::engine#costs-that-are-known-afterwards)."
    )]
    ///
    /// # Errors
    ///
    /// Returns [`SettleError::InvalidTokens`] unless the tokens are a finite number, zero or more,
    /// and [`SettleError::Unsupported`] for an accepted flow of a client that asks an Agent.
    ///
    #[cfg_attr(feature = "embedded", doc = "```")]
    #[cfg_attr(not(feature = "embedded"), doc = "```ignore")]
    /// use tower_aperture::{ApertureClient, Engine, FlowParams};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let engine = Engine::builder()
    ///     .policy_text("rows.yaml", "
    /// blueprint: rate-limiting/base
    /// policy:
    ///   policy_name: rows
    ///   rate_limiter:
    ///     bucket_capacity: 1000
    ///     fill_amount: 1000
    ///     parameters: {interval: 3600s}
    ///     request_parameters: {tokens_label_key: rows}
    ///     selectors: [{control_point: query}]
    /// ")
    ///     .build()?;
    /// let client = ApertureClient::embedded(engine);
    /// let query = |rows: &'static str| {
    ///     client.start_flow("query", FlowParams::new().label("rows", rows))
    /// };
    ///
    /// let flow = query("900").await;
    /// assert!(flow.should_run());
    /// flow.settle(300.0)?; // The query returned 300 rows.
    /// flow.end().await;
    /// assert!(query("650").await.should_run());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn settle(&self, actual_tokens: f64) -> Result<(), SettleError> {
        SettleError::check(actual_tokens)?;
        match self.ticket() {
            Some(ticket) if self.decision() == FlowDecision::Accepted => {
                if !ticket.settles() {
                    return Err(SettleError::Unsupported);
                }
                self.settlement.set(actual_tokens)
            }
            _ => Ok(()),
        }
    }
}

impl TicketKind {
    pub(super) fn settles(&self) -> bool {
        match self {
            Self::Embedded(ticket) => ticket.settles(),
            Self::Reported(ticket) => ticket.settles(),
            Self::Remote(ticket) => ticket.settles(),
            Self::Scripted(ticket) => ticket.settles(),
        }
    }

    pub(super) fn settle(&mut self, actual_tokens: f64) -> Result<(), SettleError> {
        SettleError::check(actual_tokens)?;
        match self {
            Self::Embedded(ticket) => ticket.settle(actual_tokens),
            Self::Reported(ticket) => ticket.settle(actual_tokens),
            Self::Remote(ticket) => ticket.settle(actual_tokens),
            Self::Scripted(ticket) => ticket.settle(actual_tokens),
        }
    }
}
