//! The values with which policies compare labels.

use std::collections::HashSet;

use super::matcher::{LabelCondition, LabelMatcher};
use super::model::{ComponentKind, Policy};
use super::re2::Pattern;

/// All values and patterns of the label matchers of policies, of all labels together.
#[derive(Debug, Default)]
pub(crate) struct ComparedValues {
    values: HashSet<Box<str>>,
    patterns: Vec<Pattern>,
}

impl ComparedValues {
    /// Adds the values of a policy: those of its selectors, workloads and samplers.
    pub(crate) fn add_policy(&mut self, policy: &Policy) {
        let components = policy.components.iter().map(|one| &one.selectors);
        let classifiers = policy.classifiers.iter().map(|one| &one.selectors);
        let meters = policy.flux_meters.iter().map(|one| &one.selectors);
        for selector in components.chain(classifiers).chain(meters).flatten() {
            self.add(&selector.matcher);
        }
        for component in &policy.components {
            let scheduler = match &component.kind {
                ComponentKind::QuotaScheduler(quota) => &quota.scheduler,
                ComponentKind::ConcurrencyScheduler(concurrency) => &concurrency.scheduler,
                ComponentKind::LoadScheduler(load) => &load.scheduler,
                ComponentKind::Sampler(sampler) => {
                    let values = sampler.pass_through_label_values.iter();
                    self.values.extend(values.map(|value| (**value).into()));
                    continue;
                }
                ComponentKind::RateLimiter(_)
                | ComponentKind::ConcurrencyLimiter(_)
                | ComponentKind::AdaptiveConcurrencyLimiter(_) => continue,
            };
            for workload in &scheduler.workloads {
                self.add(&workload.matcher);
            }
        }
    }

    /// Returns true if a matcher compares a label with the value, or a pattern matches it.
    pub(crate) fn contains(&self, value: &str) -> bool {
        self.values.contains(value) || self.patterns.iter().any(|one| one.is_match(value))
    }

    fn add(&mut self, matcher: &LabelMatcher) {
        for condition in matcher.conditions() {
            self.add_condition(condition);
        }
    }

    fn add_condition(&mut self, condition: &LabelCondition) {
        match condition {
            LabelCondition::Exists(_) => {}
            LabelCondition::Equals { value, .. } => {
                self.values.insert(value.clone());
            }
            LabelCondition::OneOf { values, .. } => self.values.extend(values.iter().cloned()),
            LabelCondition::Matches { pattern, .. } => self.patterns.push(pattern.clone()),
            LabelCondition::Not(condition) => self.add_condition(condition),
            LabelCondition::All(conditions) | LabelCondition::Any(conditions) => {
                for condition in conditions {
                    self.add_condition(condition);
                }
            }
        }
    }
}
