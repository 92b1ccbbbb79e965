//! The rate limiters that count only some outcomes, as code sets them.

use std::collections::HashSet;
use std::sync::Arc;

use crate::policy::{CountOnly, Policy, PolicyError};

/// Which outcomes the rate limiters of policies count, beside what the policies say.
#[derive(Debug, Default)]
pub(super) struct CountedOutcomes(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    policy: String,
    component_id: String,
    count_only: CountOnly,
}

impl CountedOutcomes {
    pub(super) fn add(&mut self, policy: String, component_id: String, count_only: CountOnly) {
        self.0.push(Entry {
            policy,
            component_id,
            count_only,
        });
    }

    /// Sets the predicates of the rate limiters of a policy.
    pub(super) fn set_on(&self, policy: &mut Policy) -> Result<(), PolicyError> {
        for entry in &self.0 {
            if *entry.policy == *policy.name {
                let count_only = entry.count_only.clone();
                policy.set_count_only(&entry.component_id, count_only, SOURCE)?;
            }
        }
        Ok(())
    }

    /// Refuses names without a policy: a misspelt name would leave the intended limiter counting
    /// every flow.
    pub(super) fn check_names(&self, policies: &HashSet<Arc<str>>) -> Result<(), PolicyError> {
        let mut names = self.0.iter().map(|entry| entry.policy.as_str());
        match names.find(|name| !policies.contains(*name)) {
            None => Ok(()),
            Some(unknown) => {
                let message = format!("no policy is named `{unknown}`");
                Err(PolicyError::new(SOURCE, message))
            }
        }
    }
}

/// The place that errors name.
const SOURCE: &str = "EngineBuilder::count_only";
