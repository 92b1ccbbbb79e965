//! Flows by hand over the embedded engine, which may be asked about afterwards.

use super::decide::{TicketKind, wrap};
use super::{ApertureClient, Flow};
use crate::Engine;
use crate::engine::{CheckInput, CheckReport, EngineTicket};
use crate::flow::{
    EndResponse, FlowError, FlowErrorKind, FlowOutcome, FlowParams, Ticket, TokenReturn, Verdict,
};

impl ApertureClient {
    pub(super) async fn start_embedded(
        &self,
        engine: &Engine,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Flow {
        let counters = &self.inner.counters;
        counters.count_dropped_labels(params.labels.dropped());
        if control_point.is_empty() {
            let error = FlowError::new(FlowErrorKind::InvalidRequest, "the control point is empty");
            let verdict = Verdict::Unreachable(error);
            counters.count(&verdict, params.shadow);
            return Flow::new(self.clone(), control_point, params, verdict);
        }
        let input = CheckInput::new(control_point, params).expect_end(true);
        let (report, ticket) = engine.start(&input).await;
        let verdict = match report.denial() {
            None => Verdict::Accepted(ticket),
            Some(denial) => Verdict::Rejected(denial, ticket),
        };
        counters.count(&verdict, params.shadow);
        let verdict = wrap(verdict, TicketKind::Embedded);
        Flow::new(self.clone(), control_point, params, verdict).with_report(report)
    }
}

/// Ends a flow and tells what became of its slots.
pub(super) fn end(
    mut ticket: EngineTicket,
    report: &CheckReport,
    outcome: FlowOutcome,
) -> EndResponse {
    let returns = report.limiter_decisions.iter().filter_map(|decision| {
        let (label, id) = decision.details.slot()?;
        Some(TokenReturn {
            policy_name: decision.policy_name.to_string(),
            component_id: decision.component_id.to_string(),
            label: label.to_owned(),
            request_id: id.to_string(),
            returned: ticket.give_back(id),
            error: None,
        })
    });
    let response = EndResponse::returned(returns.collect());
    ticket.end(outcome);
    response
}
