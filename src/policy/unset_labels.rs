//! Without an evaluator of Rego: refuses policies that decide by a label that stays unset.

use super::PolicyError;
use super::decode::At;
use super::matcher::LabelMatcher;
use super::model::{Component, ComponentKind, Scheduler, Selector};
use super::resources::Resources;

/// Refuses a policy in which a component or a flux meter reads a label that only a Rego module
/// sets: it would not limit what it is meant to limit.
pub(super) fn check(
    content: &At<'_>,
    components: &[Component],
    resources: &Resources,
) -> Result<(), PolicyError> {
    let rules = resources
        .classifiers
        .iter()
        .flat_map(|classifier| &classifier.rules);
    let set: Vec<&str> = rules
        .filter(|rule| rule.extractor.is_some())
        .map(|rule| &*rule.label)
        .collect();
    for classifier in &resources.classifiers {
        let labels = classifier.rego.iter().flat_map(|rego| &rego.labels);
        for (label, _) in labels.filter(|(label, _)| !set.contains(&&**label)) {
            let reader = components
                .iter()
                .find(|component| reads(component, label))
                .map(|component| format!("{} `{}`", component.kind.name(), component.id));
            let meter = || {
                let mut meters = resources.flux_meters.iter();
                meters
                    .find(|meter| selected_by(&meter.selectors, label))
                    .map(|meter| format!("flux meter `{}`", meter.name))
            };
            if let Some(reader) = reader.or_else(meter) {
                return Err(content.error(format!(
                    "{reader} reads the label `{label}`, which only the Rego module of classifier \
                     {} sets, and this build does not evaluate Rego: enable the feature `rego`, or \
                     set the label by a rule",
                    classifier.index
                )));
            }
        }
    }
    Ok(())
}

fn selected_by(selectors: &[Selector], label: &str) -> bool {
    selectors
        .iter()
        .any(|selector| selector.matcher.reads(label))
}

fn reads(component: &Component, label: &str) -> bool {
    let is = |key: &Option<std::sync::Arc<str>>| key.as_deref() == Some(label);
    let scheduled = |scheduler: &Scheduler| {
        let matcher = |matcher: &LabelMatcher| matcher.reads(label);
        is(&scheduler.tokens_label_key)
            || is(&scheduler.priority_label_key)
            || is(&scheduler.workload_label_key)
            || is(&scheduler.fairness_label_key)
            || scheduler
                .workloads
                .iter()
                .any(|workload| matcher(&workload.matcher))
    };
    selected_by(&component.selectors, label)
        || match &component.kind {
            ComponentKind::RateLimiter(limiter) => {
                is(&limiter.bucket.limit_by_label_key) || is(&limiter.request.tokens_label_key)
            }
            ComponentKind::QuotaScheduler(quota) => {
                is(&quota.bucket.limit_by_label_key) || scheduled(&quota.scheduler)
            }
            ComponentKind::ConcurrencyLimiter(limiter) => {
                is(&limiter.slots.limit_by_label_key) || is(&limiter.request.tokens_label_key)
            }
            ComponentKind::ConcurrencyScheduler(slots) => {
                is(&slots.slots.limit_by_label_key) || scheduled(&slots.scheduler)
            }
            ComponentKind::LoadScheduler(load) => scheduled(&load.scheduler),
            ComponentKind::Sampler(sampler) => is(&sampler.session_label_key),
        }
}
