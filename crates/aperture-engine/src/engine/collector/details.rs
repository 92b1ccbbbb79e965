//! The details of a component's decision, as reports have them.

use std::borrow::Cow;
use std::time::Duration;

use crate::engine::clock::duration;
use crate::engine::component::ReportedKind;
use crate::engine::decision::ComponentDecision;
use crate::engine::engine_flow::EngineFlow;
use crate::engine::registry::Component;
use crate::engine::report::{LimiterDetails, QueueOrder, SchedulerDetails, TokensInfo};

/// Returns the details of a decision that depend on the kind of its component.
pub(super) fn details(
    component: &Component,
    flow: &EngineFlow<'_, '_>,
    decision: &ComponentDecision,
) -> LimiterDetails {
    let tokens = tokens_info(decision);
    let request_id = decision.request_id;
    let label = || key_label(component, flow, decision);
    let scheduler = || scheduler_details(component, flow, decision);
    match component.reported_kind() {
        ReportedKind::RateLimiter => LimiterDetails::RateLimiter {
            label: label(),
            tokens,
        },
        ReportedKind::ConcurrencyLimiter => LimiterDetails::ConcurrencyLimiter {
            label: label(),
            tokens,
            request_id,
        },
        ReportedKind::Sampler => {
            let key = component.label_key();
            let session = key.and_then(|key| flow.labels.get(key));
            let (key, session) = (key.unwrap_or_default(), session.unwrap_or_default());
            LimiterDetails::Sampler {
                label: format!("{key}:{session}"),
            }
        }
        ReportedKind::QuotaScheduler => LimiterDetails::QuotaScheduler {
            label: label(),
            scheduler: scheduler(),
        },
        ReportedKind::ConcurrencyScheduler => LimiterDetails::ConcurrencyScheduler {
            label: label(),
            scheduler: scheduler(),
            request_id,
        },
        ReportedKind::LoadScheduler => LimiterDetails::LoadScheduler {
            scheduler: scheduler(),
        },
    }
}

/// Returns the label of the key that a component decided by: the whole text, which the flow holds
/// anyway. It is empty if no state was read.
fn key_label(
    component: &Component,
    flow: &EngineFlow<'_, '_>,
    decision: &ComponentDecision,
) -> Cow<'static, str> {
    if !decision.evaluated {
        return Cow::Borrowed("");
    }
    let Some(key) = component.label_key() else {
        return Cow::Borrowed("default");
    };
    let value = flow.labels.get(key);
    value.map_or(Cow::Borrowed(""), |value| {
        Cow::Owned(format!("{key}:{value}"))
    })
}

/// Returns the details that schedulers of all kinds report.
fn scheduler_details(
    component: &Component,
    flow: &EngineFlow<'_, '_>,
    decision: &ComponentDecision,
) -> SchedulerDetails {
    let scheduler = component.scheduler().filter(|_| decision.evaluated);
    let Some(request) = scheduler.map(|scheduler| scheduler.request(flow, 0)) else {
        return SchedulerDetails {
            workload_index: "default".into(),
            priority: 0.0,
            tokens: None,
            requested: 0.0,
            queued: Duration::ZERO,
            order: None,
        };
    };
    SchedulerDetails {
        workload_index: request.workload.to_owned(),
        priority: request.priority,
        tokens: Some(tokens_info(decision)),
        requested: if decision.dropped {
            request.tokens
        } else {
            decision.consumed
        },
        queued: duration(decision.queued),
        order: decision.overtaken.map(|shift| QueueOrder {
            overtook: shift.overtook,
            overtook_in_workload: shift.overtook_in_workload,
        }),
    }
}

const fn tokens_info(decision: &ComponentDecision) -> TokensInfo {
    TokensInfo {
        remaining: decision.remaining,
        current: decision.current,
        consumed: decision.consumed,
    }
}
