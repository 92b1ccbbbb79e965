//! Refuses policies that decide by a label of a Rego module that this build does not evaluate.

use super::PolicyError;
use super::decode::DocumentNode;
use super::matcher::LabelMatcher;
use super::model::{Component, ComponentKind, Scheduler, Selector};
use super::resources::Resources;

/// Refuses a policy in which a component or a flux meter reads a label that only a Rego module
/// sets. Because the label stays unset, the policy would not limit the intended flows.
pub(super) fn check(
    content: &DocumentNode<'_>,
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
        let unevaluated = classifier.rego.iter().filter(|rego| rego.program.is_none());
        let labels = unevaluated.flat_map(|rego| &rego.labels);
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
    let is_label = |key: &Option<std::sync::Arc<str>>| key.as_deref() == Some(label);
    let scheduler_reads = |scheduler: &Scheduler| {
        let matcher = |matcher: &LabelMatcher| matcher.reads(label);
        is_label(&scheduler.tokens_label_key)
            || is_label(&scheduler.priority_label_key)
            || is_label(&scheduler.workload_label_key)
            || is_label(&scheduler.fairness_label_key)
            || scheduler
                .workloads
                .iter()
                .any(|workload| matcher(&workload.matcher))
    };
    selected_by(&component.selectors, label)
        || match &component.kind {
            ComponentKind::RateLimiter(limiter) => {
                is_label(&limiter.bucket.limit_by_label_key)
                    || is_label(&limiter.request.tokens_label_key)
            }
            ComponentKind::QuotaScheduler(quota) => {
                is_label(&quota.bucket.limit_by_label_key) || scheduler_reads(&quota.scheduler)
            }
            ComponentKind::ConcurrencyLimiter(limiter) => {
                is_label(&limiter.slots.limit_by_label_key)
                    || is_label(&limiter.request.tokens_label_key)
            }
            ComponentKind::AdaptiveConcurrencyLimiter(limiter) => {
                is_label(&limiter.slots.limit_by_label_key)
                    || is_label(&limiter.request.tokens_label_key)
            }
            ComponentKind::ConcurrencyScheduler(slots) => {
                is_label(&slots.slots.limit_by_label_key) || scheduler_reads(&slots.scheduler)
            }
            ComponentKind::LoadScheduler(load) => scheduler_reads(&load.scheduler),
            ComponentKind::Sampler(sampler) => is_label(&sampler.session_label_key),
        }
}
