//! Flows of the embedded engine without a layer, which keep the engine's report.

use std::future::{Future, poll_fn};
use std::pin::pin;

use super::decide::{TicketKind, empty_control_point};
use super::{ApertureClient, Flow};
use crate::Engine;
use crate::engine::{CheckInput, CheckReport, EngineTicket};
use crate::flow::WaitSpan;
use crate::flow::{EndResponse, FlowOutcome, FlowParams, Ticket, TokenReturn, Verdict};

impl ApertureClient {
    pub(super) async fn start_embedded(
        &self,
        engine: &Engine,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Flow {
        let labels = &params.labels;
        let mut timer = self.start_check(control_point, labels.dropped(), labels.shortened());
        if control_point.is_empty() {
            let mut verdict = empty_control_point();
            self.record_verdict(
                &mut timer,
                params.shadow,
                Some(control_point),
                false,
                &mut verdict,
            );
            return Flow::new(self.clone(), control_point, params, verdict);
        }
        let input = CheckInput::new(control_point, params)
            .expect_end(true)
            .deadline(self.engine_check(params).budget());
        let span = WaitSpan::new(control_point);
        let mut starting = pin!(engine.start(&input));
        let (report, ticket) = poll_fn(|cx| {
            let polled = span.in_scope(|| starting.as_mut().poll(cx));
            if polled.is_pending() {
                timer.mark_queued();
            }
            polled
        })
        .await;
        if let Some(lookup) = &report.cache_lookup {
            self.inner.meter.count_lookup(lookup);
        }
        let ticket = TicketKind::Embedded(ticket).into();
        let mut verdict = match report.denial() {
            None => Verdict::Accepted(ticket),
            Some(denial) => Verdict::Rejected(denial, ticket),
        };
        self.record_verdict(
            &mut timer,
            params.shadow,
            Some(control_point),
            report.undecided,
            &mut verdict,
        );
        Flow::new(self.clone(), control_point, params, verdict).with_report(report)
    }
}

/// Ends a flow and returns the results of returning its slots.
pub(super) fn end(
    mut ticket: EngineTicket,
    report: &CheckReport,
    outcome: FlowOutcome,
) -> EndResponse {
    let returns = report.limiter_decisions.iter().filter_map(|decision| {
        let (label, id) = decision.details.slot()?;
        let mut result = TokenReturn::default();
        result.policy_name = decision.policy_name.to_string();
        result.component_id = decision.component_id.to_string();
        label.clone_into(&mut result.label);
        result.request_id = id.to_string();
        result.returned = ticket.return_slot(id);
        Some(result)
    });
    let response = EndResponse::returned(returns.collect());
    ticket.end(outcome);
    response
}
