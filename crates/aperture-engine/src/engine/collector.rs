//! Makes the report of a decision from what the components decided.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::cache::CacheLookupStage;
use super::clock::{Clock, duration};
use super::component_entry::ComponentEntry;
use super::decision::{ComponentDecision, EngineDenial};
use super::engine_flow::EngineFlow;
use super::flux_meter::MatchedMeters;
use super::registry::Component;
use super::report::{
    CheckReport, LimiterDecision, LimiterDetails, LimiterReason, QueueOrder, SchedulerDetails,
    TokensInfo,
};
use super::stages::Observer;
use crate::flow::Quota;

/// Collects the decisions of the components and the result of the cache lookup.
#[derive(Default)]
pub(super) struct Collector<'a, 'p> {
    /// `None` if the caller needs no decisions.
    pub(super) decisions: Option<Vec<LimiterDecision>>,
    pub(super) quotas: Option<Vec<Quota>>,
    pub(super) lookup_stage: Option<CacheLookupStage<'a, 'p>>,
}

impl Observer for Collector<'_, '_> {
    fn look_up(&mut self, flow: &EngineFlow<'_, '_>, clock: &dyn Clock) -> bool {
        self.lookup_stage
            .as_mut()
            .is_some_and(|lookup_stage| lookup_stage.look_up(flow, clock))
    }

    fn on_decision(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        component: &ComponentEntry,
        decision: &ComponentDecision,
    ) {
        if let Some(quotas) = &mut self.quotas {
            quotas.extend(component.quota(decision));
        }
        let Some(decisions) = &mut self.decisions else {
            return;
        };
        decisions.push(LimiterDecision {
            policy_name: Arc::clone(&component.policy_name),
            policy_hash: Arc::clone(&component.policy_hash),
            component_id: Arc::clone(&component.component_id),
            dropped: decision.dropped,
            dry_run: component.is_dry_run(),
            reason: match decision.key_missing {
                true => LimiterReason::KeyNotFound,
                false => LimiterReason::Unspecified,
            },
            denied_response_status_code: component.limiter.denied_code(),
            wait_time: duration(decision.wait),
            details: details(&component.limiter, flow, decision),
        });
    }
}

impl Collector<'_, '_> {
    pub(super) fn report(
        self,
        flow: &EngineFlow<'_, '_>,
        flux_meters: &MatchedMeters,
        denied: Option<EngineDenial>,
        expect_end: bool,
    ) -> CheckReport {
        let Self {
            decisions,
            lookup_stage,
            ..
        } = self;
        let mut flow_label_keys: Vec<String> =
            flow.labels.iter().map(|(key, _)| key.to_owned()).collect();
        flow_label_keys.sort_unstable();
        let telemetry_flow_labels = flow
            .labels
            .iter()
            .chain([("aperture.control_point_type", "feature")])
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        CheckReport {
            reject_reason: denied.map(|denied| denied.reason),
            denied_response_status_code: denied.map_or(0, |denied| denied.code),
            wait_time: denied
                .map(|denied| duration(denied.wait))
                .filter(|wait| !wait.is_zero()),
            control_point: flow.control_point.to_owned(),
            services: flow.services.iter().map(ToString::to_string).collect(),
            flow_label_keys,
            telemetry_flow_labels,
            expect_end,
            // Only the caller knows; it sets the field.
            undecided: false,
            limiter_decisions: decisions.unwrap_or_default(),
            classifiers: Vec::new(),
            flux_meters: flux_meters
                .meters()
                .map(|meter| Arc::clone(meter.name()))
                .collect(),
            cache_lookup: lookup_stage.and_then(|lookup_stage| lookup_stage.found),
        }
    }
}

/// Returns the details of a decision that depend on the kind of its component.
fn details(
    component: &Component,
    flow: &EngineFlow<'_, '_>,
    decision: &ComponentDecision,
) -> LimiterDetails {
    let tokens = tokens_info(decision);
    let request_id = decision.request_id;
    let label = || key_label(component, flow, decision);
    let scheduler = || scheduler_details(component, flow, decision);
    match component {
        Component::RateLimiter(_) => LimiterDetails::RateLimiter {
            label: label(),
            tokens,
        },
        Component::ConcurrencyLimiter(_) => LimiterDetails::ConcurrencyLimiter {
            label: label(),
            tokens,
            request_id,
        },
        Component::Sampler(_) => {
            let key = component.label_key().unwrap_or_default();
            let session = flow.labels.get(key).unwrap_or_default();
            LimiterDetails::Sampler {
                label: format!("{key}:{session}"),
            }
        }
        Component::QuotaScheduler(_) => LimiterDetails::QuotaScheduler {
            label: label(),
            scheduler: scheduler(),
        },
        Component::ConcurrencyScheduler(_) => LimiterDetails::ConcurrencyScheduler {
            label: label(),
            scheduler: scheduler(),
            request_id,
        },
        Component::LoadScheduler(_) => LimiterDetails::LoadScheduler {
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
    let workload = component.workload(flow).filter(|_| decision.evaluated);
    let Some(request) = workload else {
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
