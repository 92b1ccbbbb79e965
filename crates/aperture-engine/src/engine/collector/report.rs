//! The collector of the full report.

use std::sync::Arc;

use super::details::details;
use super::{Collector, DecisionEnd, OutputCollector};
use crate::engine::clock::duration;
use crate::engine::component_entry::ComponentEntry;
use crate::engine::decision::ComponentDecision;
use crate::engine::engine_flow::{CheckInput, EngineFlow};
use crate::engine::report::{CheckReport, LimiterDecision, LimiterReason};
use crate::engine::ticket::{EngineTicket, Quotas, TicketExtras};
use aperture_core::{CacheLookup, Labels};

/// Collects the decisions of the components, the result of the cache lookup, and quotas if the flow
/// asks for them.
#[derive(Debug)]
pub(in crate::engine) struct ReportCollector {
    decisions: Vec<LimiterDecision>,
    cache_lookup: Option<CacheLookup>,
    /// `None` if the caller needs no quotas.
    quotas: Option<Quotas>,
    expect_end: bool,
}

impl ReportCollector {
    pub(in crate::engine) fn new(input: &CheckInput<'_, '_>) -> Self {
        Self {
            decisions: Vec::new(),
            cache_lookup: None,
            quotas: input.params.quotas.then(Quotas::new),
            expect_end: input.expect_end,
        }
    }
}

impl Collector for ReportCollector {
    fn on_decision(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        component: &ComponentEntry,
        decision: &ComponentDecision,
    ) {
        if let Some(quotas) = &mut self.quotas {
            quotas.extend(component.quota(decision));
        }
        self.decisions.push(LimiterDecision {
            policy_name: Arc::clone(&component.policy_name),
            policy_hash: Arc::clone(&component.policy_hash),
            component_id: Arc::clone(&component.component_id),
            dropped: decision.dropped,
            dry_run: component.is_dry_run(),
            reason: match decision.key_missing {
                true => LimiterReason::KeyNotFound,
                false => LimiterReason::Unspecified,
            },
            denied_response_status_code: component.component.denied_code(),
            wait_time: duration(decision.wait),
            details: details(&component.component, flow, decision),
        });
    }

    fn on_lookup(&mut self, found: CacheLookup) {
        self.cache_lookup = Some(found);
    }
}

impl OutputCollector for ReportCollector {
    type Output = (CheckReport, EngineTicket);

    fn finish(self, end: DecisionEnd<'_, '_>) -> (CheckReport, EngineTicket) {
        let DecisionEnd {
            flow,
            result,
            undecided,
            ticket,
        } = end;
        let denied = result.err();
        let mut labels = Labels::unlimited();
        flow.labels.fill(&mut labels);
        let mut flow_label_keys: Vec<String> =
            labels.iter().map(|(key, _)| key.to_owned()).collect();
        flow_label_keys.sort_unstable();
        let telemetry_flow_labels = labels
            .iter()
            .chain([("aperture.control_point_type", "feature")])
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let report = CheckReport {
            reject_reason: denied.map(|denied| denied.reason),
            denied_response_status_code: denied.map_or(0, |denied| denied.code),
            wait_time: denied
                .map(|denied| duration(denied.wait))
                .filter(|wait| !wait.is_zero()),
            control_point: flow.control_point.to_owned(),
            services: flow.services.iter().map(ToString::to_string).collect(),
            flow_label_keys,
            telemetry_flow_labels,
            expect_end: self.expect_end,
            undecided,
            limiter_decisions: self.decisions,
            classifiers: Vec::new(),
            flux_meters: ticket.flux_meters(),
            cache_lookup: self.cache_lookup,
        };
        // The cache lookup is part of the report.
        let extras = TicketExtras {
            quotas: self.quotas.unwrap_or_default(),
            ..TicketExtras::default()
        };
        (report, ticket.with_extras(extras))
    }
    fn held_bytes(&self) -> usize {
        /// Bytes of one decision, in addition to its texts.
        const DECISION_BYTES: usize = 512;
        let decisions = self.decisions.iter();
        let decisions = decisions.map(|one| one.details.text_bytes() + DECISION_BYTES);
        super::lookup_bytes(self.cache_lookup.as_ref()) + decisions.sum::<usize>()
    }
}
