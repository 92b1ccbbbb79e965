//! The embedded engine as a decider whose tickets keep the engine's report.

use std::future::{Future, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::Engine;
use crate::client::backend::BackendTicket;
use crate::client::cache::ReadLookup;
use crate::engine::{CheckInput, CheckReport, EngineTicket, PendingReport, Shared};
use crate::flow::{
    CacheLookup, Check, Decider, EndResponse, FlowOutcome, FlowParams, HttpExtras, Quota,
    SettleError, Ticket, TokenReturn, Verdict,
};

/// An engine that reports what each component decided, for flows without a layer.
pub(super) struct ReportingEngine<'a> {
    pub(super) engine: &'a Engine<Shared>,
    /// The check timeout of flows that set none; `None` means no limit.
    pub(super) check_timeout: Option<Duration>,
}

/// The ticket of a flow, with the report about its check.
#[derive(Debug)]
pub(in crate::client) struct ReportedTicket {
    ticket: EngineTicket,
    report: CheckReport,
}

/// The future of a verdict with such a ticket.
pub(super) struct PendingReportedTicket(PendingReport);

impl Decider for ReportingEngine<'_> {
    type Ticket = Box<ReportedTicket>;
    type Pending = PendingReportedTicket;

    fn decide(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Check<Self::Ticket, Self::Pending> {
        let input = CheckInput::new(control_point, params)
            .expect_end(true)
            .deadline(params.budget(self.check_timeout));
        // The future is ready at its first poll unless the flow waits.
        Check::Pending(PendingReportedTicket(self.engine.start(&input)))
    }
}

impl Future for PendingReportedTicket {
    type Output = Verdict<Box<ReportedTicket>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|(report, ticket)| {
            let denial = report.denial();
            let ticket = Box::new(ReportedTicket { ticket, report });
            match denial {
                None => Verdict::Accepted(ticket),
                Some(denial) => Verdict::Rejected(denial, ticket),
            }
        })
    }
}

impl ReportedTicket {
    pub(in crate::client) const fn report(&self) -> &CheckReport {
        &self.report
    }

    /// Ends the flow and returns the results of returning its slots.
    fn end_with_response(mut self, outcome: FlowOutcome) -> EndResponse {
        let returns = self.report.limiter_decisions.iter().filter_map(|decision| {
            let (label, id) = decision.details.slot()?;
            let mut result = TokenReturn::default();
            result.policy_name = decision.policy_name.to_string();
            result.component_id = decision.component_id.to_string();
            label.clone_into(&mut result.label);
            result.request_id = id.to_string();
            result.returned = self.ticket.return_slot(id, outcome);
            Some(result)
        });
        let response = EndResponse::returned(returns.collect());
        self.ticket.end(outcome);
        response
    }
}

impl Ticket for Box<ReportedTicket> {
    fn end(self, outcome: FlowOutcome) {
        self.ticket.end(outcome);
    }

    fn response_started(&mut self, outcome: FlowOutcome) {
        self.ticket.response_started(outcome);
    }

    fn settles(&self) -> bool {
        self.ticket.settles()
    }

    fn settle(&mut self, actual_tokens: f64) -> Result<(), SettleError> {
        self.ticket.settle(actual_tokens)
    }

    fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        self.report.cache_lookup.take()
    }

    fn take_quotas(&mut self) -> Vec<Quota> {
        self.ticket.take_quotas()
    }

    fn take_http_extras(&mut self) -> Option<Box<HttpExtras>> {
        self.ticket.take_http_extras()
    }
}

impl BackendTicket for Box<ReportedTicket> {
    fn end_and_wait(self, outcome: FlowOutcome) -> impl Future<Output = EndResponse> + Send {
        ready(self.end_with_response(outcome))
    }

    fn cache_lookup(&self) -> Option<&dyn ReadLookup> {
        self.report.cache_lookup.as_ref().map(|lookup| lookup as _)
    }
}
