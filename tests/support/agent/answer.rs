//! Answers to checks.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use tower_aperture::pb::check::check_response::{DecisionType, RejectReason};
use tower_aperture::pb::check::limiter_decision::{
    ConcurrencyLimiterInfo, ConcurrencySchedulerInfo, Details, RateLimiterInfo, TokensInfo,
};
use tower_aperture::pb::check::{CheckRequest, CheckResponse, LimiterDecision};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Yes, and nothing more.
pub fn accepted(request: &CheckRequest) -> CheckResponse {
    let mut keys: Vec<String> = request.labels.keys().cloned().collect();
    keys.sort();
    CheckResponse {
        control_point: request.control_point.clone(),
        flow_label_keys: keys,
        expect_end: request.expect_end,
        ..CheckResponse::default()
    }
}

/// No, as a limiter without a status code of its own says it.
pub fn rejected(request: &CheckRequest, reason: RejectReason) -> CheckResponse {
    CheckResponse {
        decision_type: DecisionType::Rejected as i32,
        reject_reason: reason as i32,
        ..accepted(request)
    }
}

/// Accepts by the decision of a rate limiter, which holds no slot.
pub fn limited(request: &CheckRequest) -> CheckResponse {
    let tokens_info = tokens();
    let details = Details::RateLimiterInfo(RateLimiterInfo {
        label: "user:42".to_owned(),
        tokens_info,
    });
    CheckResponse {
        limiter_decisions: vec![decision(false, details)],
        ..accepted(request)
    }
}

/// Yes, with a slot of a concurrency limiter that has to be given back.
pub fn granted(request: &CheckRequest) -> CheckResponse {
    CheckResponse {
        limiter_decisions: vec![limiter(false)],
        ..accepted(request)
    }
}

/// The decision of a concurrency limiter, with a request id of its own.
pub fn limiter(dropped: bool) -> LimiterDecision {
    decision(
        dropped,
        Details::ConcurrencyLimiterInfo(ConcurrencyLimiterInfo {
            label: "user:42".to_owned(),
            tokens_info: tokens(),
            request_id: id(),
        }),
    )
}

/// The decision of a concurrency scheduler, with a request id of its own.
pub fn scheduler(dropped: bool) -> LimiterDecision {
    decision(
        dropped,
        Details::ConcurrencySchedulerInfo(ConcurrencySchedulerInfo {
            label: "user:42".to_owned(),
            workload_index: "default".to_owned(),
            tokens_info: tokens(),
            priority: 1.0,
            request_id: id(),
        }),
    )
}

pub(super) fn request_ids(answer: &CheckResponse) -> Vec<String> {
    let details = answer.limiter_decisions.iter().map(|d| &d.details);
    let ids = details.filter_map(|details| match details {
        Some(Details::ConcurrencyLimiterInfo(info)) => Some(info.request_id.clone()),
        Some(Details::ConcurrencySchedulerInfo(info)) => Some(info.request_id.clone()),
        _ => None,
    });
    ids.filter(|id| !id.is_empty()).collect()
}

fn decision(dropped: bool, details: Details) -> LimiterDecision {
    LimiterDecision {
        policy_name: "concurrency".to_owned(),
        policy_hash: "hash".to_owned(),
        component_id: "root.0".to_owned(),
        dropped,
        details: Some(details),
        ..LimiterDecision::default()
    }
}

fn tokens() -> Option<TokensInfo> {
    Some(TokensInfo {
        remaining: 9.0,
        current: 1.0,
        consumed: 1.0,
    })
}

fn id() -> String {
    format!("request-{}", NEXT.fetch_add(1, SeqCst))
}
