//! Policies that decide, and nothing follows.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::PolicyError;

/// Which policies are in a dry run.
#[derive(Debug, Default)]
pub(super) struct DryRun {
    all: bool,
    policies: BTreeSet<String>,
    /// Decisions that would have turned flows away.
    rejected: Arc<AtomicU64>,
}

impl DryRun {
    pub(super) fn all(&mut self, all: bool) {
        self.all = all;
    }

    pub(super) fn add(&mut self, policy: String) {
        self.policies.insert(policy);
    }

    /// Where a policy in a dry run counts; `None` for any other.
    pub(super) fn of(&self, policy: &str) -> Option<Arc<AtomicU64>> {
        let dry = self.all || self.policies.contains(policy);
        dry.then(|| Arc::clone(&self.rejected))
    }

    pub(super) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// A name that nobody has is a policy that is enforced against the operator's will.
    pub(super) fn check(&self, policies: &HashSet<Arc<str>>) -> Result<(), PolicyError> {
        let mut names = self.policies.iter();
        let Some(unknown) = names.find(|name| !policies.contains(name.as_str())) else {
            return Ok(());
        };
        let mut known: Vec<_> = policies.iter().map(|name| format!("`{name}`")).collect();
        known.sort_unstable();
        let known = match known.is_empty() {
            true => "there are none".to_owned(),
            false => format!("there are {}", known.join(", ")),
        };
        Err(PolicyError::new(
            "EngineBuilder::dry_run",
            format!("there is no policy `{unknown}`: {known}"),
        ))
    }
}
