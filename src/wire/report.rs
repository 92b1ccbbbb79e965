//! Converts the engine's report of a check to the Agent's message.

use crate::engine::{
    CheckReport, LimiterDecision, LimiterDetails, LimiterReason, RequestId, TokensInfo,
};
use crate::flow::RejectReason;
use crate::messages::check::check_response::{DecisionType, RejectReason as PbRejectReason};
use crate::messages::check::limiter_decision::{
    ConcurrencyLimiterInfo, ConcurrencySchedulerInfo, Details, LimiterReason as PbLimiterReason,
    QuotaSchedulerInfo, RateLimiterInfo, SamplerInfo, SchedulerInfo, TokensInfo as PbTokensInfo,
};
use crate::messages::check::{
    CheckResponse, ClassifierInfo, FluxMeterInfo, LimiterDecision as PbLimiterDecision,
};

impl From<CheckReport> for CheckResponse {
    /// Returns the message that an Agent would have sent, without timestamps.
    fn from(report: CheckReport) -> Self {
        let (decision, reason) = match report.reject_reason {
            None => (DecisionType::Accepted, PbRejectReason::None),
            Some(reason) => (
                DecisionType::Rejected,
                match reason {
                    RejectReason::RateLimited => PbRejectReason::RateLimited,
                    RejectReason::NoTokens => PbRejectReason::NoTokens,
                    RejectReason::NotSampled => PbRejectReason::NotSampled,
                    RejectReason::NoMatchingRamp => PbRejectReason::NoMatchingRamp,
                    // The layer and the client reject for the other reasons.
                    _ => PbRejectReason::None,
                },
            ),
        };
        let classifiers = report.classifiers.into_iter();
        let flux_meters = report.flux_meters.into_iter();
        let decisions = report.limiter_decisions.into_iter();
        CheckResponse {
            services: report.services,
            control_point: report.control_point,
            flow_label_keys: report.flow_label_keys,
            telemetry_flow_labels: report.telemetry_flow_labels.into_iter().collect(),
            decision_type: decision.into(),
            reject_reason: reason.into(),
            classifier_infos: classifiers
                .map(|classifier| ClassifierInfo {
                    policy_name: classifier.policy_name.to_string(),
                    policy_hash: classifier.policy_hash.to_string(),
                    classifier_index: classifier.classifier_index.into(),
                    ..ClassifierInfo::default()
                })
                .collect(),
            flux_meter_infos: flux_meters
                .map(|name| FluxMeterInfo {
                    flux_meter_name: name.to_string(),
                })
                .collect(),
            limiter_decisions: decisions.map(limiter_decision).collect(),
            wait_time: report.wait_time.and_then(|wait| wait.try_into().ok()),
            denied_response_status_code: report.denied_response_status_code,
            cache_lookup_response: report.cache_lookup.map(Into::into),
            expect_end: report.expect_end,
            ..CheckResponse::default()
        }
    }
}

fn limiter_decision(decision: LimiterDecision) -> PbLimiterDecision {
    // Only these limiters report a wait, including zero.
    let wait_time = match decision.details {
        LimiterDetails::RateLimiter { .. } | LimiterDetails::ConcurrencyLimiter { .. } => {
            decision.wait_time.try_into().ok()
        }
        _ => None,
    };
    let reason = match decision.reason {
        LimiterReason::KeyNotFound => PbLimiterReason::KeyNotFound,
        _ => PbLimiterReason::Unspecified,
    };
    PbLimiterDecision {
        policy_name: decision.policy_name.to_string(),
        policy_hash: decision.policy_hash.to_string(),
        component_id: decision.component_id.to_string(),
        dropped: decision.dropped,
        reason: reason.into(),
        denied_response_status_code: decision.denied_response_status_code,
        wait_time,
        details: details(decision.details),
    }
}

/// Returns the details by kind of limiter, or `None` for a kind that messages do not have.
fn details(details: LimiterDetails) -> Option<Details> {
    Some(match details {
        LimiterDetails::RateLimiter { label, tokens } => {
            Details::RateLimiterInfo(RateLimiterInfo {
                label: label.into_owned(),
                tokens_info: Some(tokens_info(tokens)),
            })
        }
        LimiterDetails::ConcurrencyLimiter {
            label,
            tokens,
            request_id,
        } => Details::ConcurrencyLimiterInfo(ConcurrencyLimiterInfo {
            label: label.into_owned(),
            tokens_info: Some(tokens_info(tokens)),
            request_id: request_id_text(request_id),
        }),
        LimiterDetails::Sampler { label } => Details::SamplerInfo(SamplerInfo { label }),
        LimiterDetails::QuotaScheduler { label, scheduler } => {
            Details::QuotaSchedulerInfo(QuotaSchedulerInfo {
                label: label.into_owned(),
                workload_index: scheduler.workload_index,
                tokens_info: scheduler.tokens.map(tokens_info),
                priority: scheduler.priority,
            })
        }
        LimiterDetails::ConcurrencyScheduler {
            label,
            scheduler,
            request_id,
        } => Details::ConcurrencySchedulerInfo(ConcurrencySchedulerInfo {
            label: label.into_owned(),
            workload_index: scheduler.workload_index,
            tokens_info: scheduler.tokens.map(tokens_info),
            priority: scheduler.priority,
            request_id: request_id_text(request_id),
        }),
        LimiterDetails::LoadScheduler { scheduler } => Details::LoadSchedulerInfo(SchedulerInfo {
            workload_index: scheduler.workload_index,
            tokens_info: scheduler.tokens.map(tokens_info),
            priority: scheduler.priority,
        }),
        _ => return None,
    })
}

fn tokens_info(tokens: TokensInfo) -> PbTokensInfo {
    PbTokensInfo {
        remaining: tokens.remaining,
        current: tokens.current,
        consumed: tokens.consumed,
    }
}

fn request_id_text(id: Option<RequestId>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}
