//! Collectors for callers that need the verdict without a report.

use super::{Collector, DecisionEnd, OutputCollector};
use crate::engine::clock::duration;
use crate::engine::component_entry::ComponentEntry;
use crate::engine::decision::{ComponentDecision, EngineDenial};
use crate::engine::engine_flow::EngineFlow;
use crate::engine::http_answer::HttpAnswer;
use crate::engine::ticket::{EngineTicket, Quotas, TicketExtras};
use aperture_core::{CacheLookup, Denial, FlowParams, HttpExtras, RejectReason, Verdict};

/// Collects nothing.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct NoReport;

impl Collector for NoReport {
    const READS_DECISIONS: bool = false;

    #[inline(always)]
    fn on_decision(&mut self, _: &EngineFlow<'_, '_>, _: &ComponentEntry, _: &ComponentDecision) {}

    fn on_lookup(&mut self, _: CacheLookup) {}
}

/// Collects quotas.
#[derive(Debug, Default)]
pub(in crate::engine) struct QuotaCollector(Quotas);

impl Collector for QuotaCollector {
    fn on_decision(
        &mut self,
        _: &EngineFlow<'_, '_>,
        component: &ComponentEntry,
        decision: &ComponentDecision,
    ) {
        self.0.extend(component.quota(decision));
    }

    fn on_lookup(&mut self, _: CacheLookup) {}
}

/// A collector of a check that makes no report.
pub(in crate::engine) trait CheckCollector: Collector {
    /// Adds what was collected to the ticket of a decided flow.
    fn add_to(&mut self, ticket: EngineTicket) -> EngineTicket;

    /// Moves what was collected to the collector of a flow that waits.
    fn continue_waiting(&mut self) -> VerdictCollector;
}

impl CheckCollector for NoReport {
    #[inline(always)]
    fn add_to(&mut self, ticket: EngineTicket) -> EngineTicket {
        ticket
    }

    fn continue_waiting(&mut self) -> VerdictCollector {
        VerdictCollector::default()
    }
}

impl CheckCollector for QuotaCollector {
    fn add_to(&mut self, ticket: EngineTicket) -> EngineTicket {
        ticket.with_quotas(&mut self.0)
    }

    fn continue_waiting(&mut self) -> VerdictCollector {
        VerdictCollector {
            quotas: Some(std::mem::take(&mut self.0)),
            ..VerdictCollector::default()
        }
    }
}

/// Collects what a flow asks for beside its verdict: quotas, the result of the cache lookup, and
/// the headers of an HTTP answer.
#[derive(Debug, Default)]
pub(in crate::engine) struct VerdictCollector {
    /// `None` if the caller needs no quotas.
    quotas: Option<Quotas>,
    cached: Option<CacheLookup>,
    /// The `baggage` header of the answer, if the flow is an HTTP request.
    http: Option<Option<String>>,
}

/// A verdict, with the flag that counts flows without a limit.
#[derive(Debug)]
pub(in crate::engine) struct CollectedVerdict {
    pub(in crate::engine) verdict: Verdict<EngineTicket>,
    /// True if the flow was accepted at once and no component decided about it.
    pub(in crate::engine) undecided: bool,
}

impl VerdictCollector {
    pub(in crate::engine) fn new(params: &FlowParams<'_>) -> Self {
        Self {
            quotas: params.quotas.then(Quotas::new),
            ..Self::default()
        }
    }

    /// Adds the headers of an HTTP answer, with this `baggage` for the next service.
    pub(in crate::engine) fn http(mut self, baggage: Option<String>) -> Self {
        self.http = Some(baggage);
        self
    }
}

impl Collector for VerdictCollector {
    fn on_decision(
        &mut self,
        _: &EngineFlow<'_, '_>,
        component: &ComponentEntry,
        decision: &ComponentDecision,
    ) {
        if let Some(quotas) = &mut self.quotas {
            quotas.extend(component.quota(decision));
        }
    }

    fn on_lookup(&mut self, found: CacheLookup) {
        self.cached = Some(found);
    }
}

impl OutputCollector for VerdictCollector {
    type Output = CollectedVerdict;

    fn finish(self, end: DecisionEnd<'_, '_>) -> CollectedVerdict {
        let ticket = end.ticket.with_extras(TicketExtras {
            cached: self.cached,
            quotas: self.quotas.unwrap_or_default(),
            http: None,
        });
        let verdict = match self.http {
            Some(baggage) => http_verdict(end.result, ticket, baggage),
            None => match end.result {
                Ok(()) => Verdict::Accepted(ticket),
                Err(denied) => Verdict::Rejected(denied.into(), ticket),
            },
        };
        CollectedVerdict {
            verdict,
            undecided: end.undecided,
        }
    }
    fn held_bytes(&self) -> usize {
        super::lookup_bytes(self.cached.as_ref())
    }
}

/// Returns the verdict about an HTTP request, whose ticket has the headers of the answer.
fn http_verdict(
    result: Result<(), EngineDenial>,
    ticket: EngineTicket,
    baggage: Option<String>,
) -> Verdict<EngineTicket> {
    let denied = result.err();
    let wait = denied.map_or(0, |denied| denied.wait);
    let wait = (wait > 0).then(|| duration(wait));
    let reason = denied.map(|denied| denied.reason);
    let code = denied.map_or(0, |denied| denied.code);
    match HttpAnswer::new(reason, code, wait, baggage) {
        HttpAnswer::Ok { headers } => Verdict::Accepted(
            ticket.with_http_extras(HttpExtras::new(headers, "").boxed_unless_empty()),
        ),
        HttpAnswer::Denied { status, headers } => {
            let denial = Denial::new(reason.unwrap_or(RejectReason::Unknown))
                .denied_code(u16::try_from(status).unwrap_or(0))
                .wait(wait.unwrap_or_default());
            let extras = HttpExtras::new(headers, "").boxed_unless_empty();
            Verdict::Rejected(denial, ticket.with_http_extras(extras))
        }
    }
}

impl From<EngineDenial> for Denial {
    /// Leaves out a status that is not valid in HTTP.
    fn from(denied: EngineDenial) -> Self {
        Self::new(denied.reason)
            .denied_code(u16::try_from(denied.code).unwrap_or(0))
            .wait(duration(denied.wait))
    }
}
