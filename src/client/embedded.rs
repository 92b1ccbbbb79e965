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
            counters.count(&verdict);
            return Flow::new(self.clone(), control_point, params, verdict);
        }
        let input = CheckInput::new(control_point, params).expect_end(true);
        let (report, ticket) = engine.start(&input).await;
        let verdict = match report.denial() {
            None => Verdict::Accepted(ticket),
            Some(denial) => Verdict::Rejected(denial, ticket),
        };
        counters.count(&verdict);
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

/// The message that an Agent would have sent, but for its time stamps.
#[cfg(feature = "remote")]
pub(super) fn check_response(report: &CheckReport) -> crate::pb::check::CheckResponse {
    use crate::flow::RejectReason;
    use crate::pb::check::check_response::{DecisionType, RejectReason as Reason};

    let (decision, reason) = match report.reject_reason {
        None => (DecisionType::Accepted, Reason::None),
        Some(reason) => (
            DecisionType::Rejected,
            match reason {
                RejectReason::RateLimited => Reason::RateLimited,
                RejectReason::NoTokens => Reason::NoTokens,
                RejectReason::NotSampled => Reason::NotSampled,
                RejectReason::NoMatchingRamp => Reason::NoMatchingRamp,
                RejectReason::Unreachable | RejectReason::Unknown => Reason::None,
            },
        ),
    };
    crate::pb::check::CheckResponse {
        services: report.services.clone(),
        control_point: report.control_point.clone(),
        flow_label_keys: report.flow_label_keys.clone(),
        telemetry_flow_labels: report
            .telemetry_flow_labels
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        decision_type: decision.into(),
        reject_reason: reason.into(),
        limiter_decisions: report.limiter_decisions.iter().map(decision_of).collect(),
        wait_time: report.wait_time.and_then(|wait| wait.try_into().ok()),
        denied_response_status_code: report.denied_response_status_code,
        expect_end: report.expect_end,
        flux_meter_infos: report
            .flux_meters
            .iter()
            .map(|name| crate::pb::check::FluxMeterInfo {
                flux_meter_name: name.to_string(),
            })
            .collect(),
        cache_lookup_response: report.cache_lookup.as_ref().map(super::cache::wire::told),
        ..crate::pb::check::CheckResponse::default()
    }
}

#[cfg(feature = "remote")]
fn decision_of(decision: &crate::engine::LimiterDecision) -> crate::pb::check::LimiterDecision {
    use crate::engine::{LimiterDetails, LimiterReason};
    use crate::pb::check::limiter_decision::{
        ConcurrencyLimiterInfo, ConcurrencySchedulerInfo, Details, LimiterReason as Reason,
        QuotaSchedulerInfo, RateLimiterInfo, SamplerInfo, SchedulerInfo, TokensInfo,
    };

    let info = |tokens: &crate::engine::TokensInfo| TokensInfo {
        remaining: tokens.remaining,
        current: tokens.current,
        consumed: tokens.consumed,
    };
    let id = |id: &Option<crate::engine::RequestId>| id.map(|id| id.to_string());
    let details = match &decision.details {
        LimiterDetails::RateLimiter { label, tokens } => {
            Details::RateLimiterInfo(RateLimiterInfo {
                label: label.clone().into_owned(),
                tokens_info: Some(info(tokens)),
            })
        }
        LimiterDetails::ConcurrencyLimiter {
            label,
            tokens,
            request_id,
        } => Details::ConcurrencyLimiterInfo(ConcurrencyLimiterInfo {
            label: label.clone().into_owned(),
            tokens_info: Some(info(tokens)),
            request_id: id(request_id).unwrap_or_default(),
        }),
        LimiterDetails::Sampler { label } => Details::SamplerInfo(SamplerInfo {
            label: label.clone(),
        }),
        LimiterDetails::QuotaScheduler { label, scheduler } => {
            Details::QuotaSchedulerInfo(QuotaSchedulerInfo {
                label: label.clone().into_owned(),
                workload_index: scheduler.workload_index.clone(),
                tokens_info: scheduler.tokens.as_ref().map(info),
                priority: scheduler.priority,
            })
        }
        LimiterDetails::ConcurrencyScheduler {
            label,
            scheduler,
            request_id,
        } => Details::ConcurrencySchedulerInfo(ConcurrencySchedulerInfo {
            label: label.clone().into_owned(),
            workload_index: scheduler.workload_index.clone(),
            tokens_info: scheduler.tokens.as_ref().map(info),
            priority: scheduler.priority,
            request_id: id(request_id).unwrap_or_default(),
        }),
        LimiterDetails::LoadScheduler { scheduler } => Details::LoadSchedulerInfo(SchedulerInfo {
            workload_index: scheduler.workload_index.clone(),
            tokens_info: scheduler.tokens.as_ref().map(info),
            priority: scheduler.priority,
        }),
    };
    let reason = match decision.reason {
        LimiterReason::Unspecified => Reason::Unspecified,
        LimiterReason::KeyNotFound => Reason::KeyNotFound,
    };
    crate::pb::check::LimiterDecision {
        policy_name: decision.policy_name.to_string(),
        policy_hash: decision.policy_hash.to_string(),
        component_id: decision.component_id.to_string(),
        dropped: decision.dropped,
        reason: reason.into(),
        denied_response_status_code: decision.denied_response_status_code,
        wait_time: decision.wait_time.try_into().ok(),
        details: Some(details),
    }
}
