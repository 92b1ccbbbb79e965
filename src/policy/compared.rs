//! The values that policies compare labels with.

use std::collections::HashSet;

use super::matcher::{LabelMatcher, Test};
use super::model::{ComponentKind, Policy};
use super::re2::Pattern;

/// All values and patterns of the label matchers of policies, whatever the label.
#[derive(Debug, Default)]
pub(crate) struct ComparedValues {
    values: HashSet<Box<str>>,
    patterns: Vec<Pattern>,
}

impl ComparedValues {
    /// Adds those of a policy: of its selectors, workloads and samplers.
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
                ComponentKind::RateLimiter(_) | ComponentKind::ConcurrencyLimiter(_) => continue,
            };
            for workload in &scheduler.workloads {
                self.add(&workload.matcher);
            }
        }
    }

    /// Returns true if the value is compared with, or matches a pattern.
    pub(crate) fn contains(&self, value: &str) -> bool {
        self.values.contains(value) || self.patterns.iter().any(|one| one.is_match(value))
    }

    fn add(&mut self, matcher: &LabelMatcher) {
        for test in matcher.tests() {
            self.add_test(test);
        }
    }

    fn add_test(&mut self, test: &Test) {
        match test {
            Test::Exists(_) => {}
            Test::Equals { value, .. } => {
                self.values.insert(value.clone());
            }
            Test::OneOf { values, .. } => self.values.extend(values.iter().cloned()),
            Test::Matches { pattern, .. } => self.patterns.push(pattern.clone()),
            Test::Not(test) => self.add_test(test),
            Test::All(tests) | Test::Any(tests) => {
                for test in tests {
                    self.add_test(test);
                }
            }
        }
    }
}
