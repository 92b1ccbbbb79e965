//! The policies in a dry run: they decide, but are not enforced.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::PolicyError;

/// The names of the policies in a dry run, and the counter of their rejections.
#[derive(Debug, Default)]
pub(super) struct DryRunPolicies {
    all: bool,
    policies: BTreeSet<String>,
    /// Counts the decisions that would have rejected a flow.
    rejections: Arc<AtomicU64>,
}

impl DryRunPolicies {
    pub(super) fn set_all(&mut self, all: bool) {
        self.all = all;
    }

    pub(super) fn add(&mut self, policy: String) {
        self.policies.insert(policy);
    }

    /// Returns the counter of rejections for a policy in a dry run; `None` for any other policy.
    pub(super) fn counter_for(&self, policy: &str) -> Option<Arc<AtomicU64>> {
        let is_dry_run = self.all || self.policies.contains(policy);
        is_dry_run.then(|| Arc::clone(&self.rejections))
    }

    pub(super) fn rejections(&self) -> u64 {
        self.rejections.load(Ordering::Relaxed)
    }

    /// Refuses names without a policy: a misspelt name would leave the intended policy enforced.
    pub(super) fn check_names(&self, policies: &HashSet<Arc<str>>) -> Result<(), PolicyError> {
        let mut names = self.policies.iter();
        let Some(unknown) = names.find(|name| !policies.contains(name.as_str())) else {
            return Ok(());
        };
        let mut known: Vec<_> = policies.iter().map(|name| format!("`{name}`")).collect();
        known.sort_unstable();
        let known = match known.is_empty() {
            true => "there are no policies".to_owned(),
            false => format!("the policies are {}", known.join(", ")),
        };
        Err(PolicyError::new(
            "EngineBuilder::dry_run",
            format!("no policy is named `{unknown}`: {known}"),
        ))
    }
}
