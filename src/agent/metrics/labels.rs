//! Label sets that name parts of policies.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hashbrown::Equivalent;
use prometheus_client::encoding::EncodeLabelSet;

use super::series::{Labels, Standing};
use crate::engine::{InForceNames, NamedComponent};

/// Stands for all workloads that are named by the value of a label, which must not be shown.
const OTHER_WORKLOAD: &str = "other";

/// A component of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Component {
    policy_name: Arc<str>,
    policy_hash: Arc<str>,
    component_id: Arc<str>,
}

/// A workload of a scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Workload {
    policy_name: Arc<str>,
    policy_hash: Arc<str>,
    component_id: Arc<str>,
    workload_index: Arc<str>,
}

/// Like [`Workload`], borrowed.
#[derive(Clone, Copy)]
pub(super) struct WorkloadOf<'a> {
    component: NamedComponent<'a>,
    name: &'a str,
}

/// What a decision says about a limiter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Limiter {
    policy_name: Arc<str>,
    policy_hash: Arc<str>,
    component_id: Arc<str>,
    decision_type: &'static str,
    limiter_dropped: bool,
}

/// What a decision says about a sampler.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Sampler {
    policy_name: Arc<str>,
    policy_hash: Arc<str>,
    component_id: Arc<str>,
    decision_type: &'static str,
    sampler_dropped: bool,
}

/// What a decision says about a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WorkloadRequests {
    policy_name: Arc<str>,
    policy_hash: Arc<str>,
    component_id: Arc<str>,
    workload_index: Arc<str>,
    decision_type: &'static str,
    limiter_dropped: bool,
}

impl Component {
    pub(super) fn of(component: NamedComponent<'_>) -> Self {
        Self {
            policy_name: Arc::clone(component.policy_name()),
            policy_hash: Arc::clone(component.policy_hash()),
            component_id: Arc::clone(component.id()),
        }
    }
}

impl<'a> WorkloadOf<'a> {
    /// The workload of a decision, by its name in the policy.
    pub(super) fn new(component: NamedComponent<'a>, workload: &str) -> Self {
        Self {
            component,
            name: component.workload(workload).unwrap_or(OTHER_WORKLOAD),
        }
    }

    pub(super) fn to_labels(self) -> Workload {
        Workload {
            policy_name: Arc::clone(self.component.policy_name()),
            policy_hash: Arc::clone(self.component.policy_hash()),
            component_id: Arc::clone(self.component.id()),
            workload_index: Arc::from(self.name),
        }
    }

    pub(super) fn requests(self, decision_type: &'static str, dropped: bool) -> WorkloadRequests {
        WorkloadRequests {
            policy_name: Arc::clone(self.component.policy_name()),
            policy_hash: Arc::clone(self.component.policy_hash()),
            component_id: Arc::clone(self.component.id()),
            workload_index: Arc::from(self.name),
            decision_type,
            limiter_dropped: dropped,
        }
    }
}

impl Limiter {
    pub(super) fn new(
        component: NamedComponent<'_>,
        decision_type: &'static str,
        limiter_dropped: bool,
    ) -> Self {
        Self {
            policy_name: Arc::clone(component.policy_name()),
            policy_hash: Arc::clone(component.policy_hash()),
            component_id: Arc::clone(component.id()),
            decision_type,
            limiter_dropped,
        }
    }
}

impl Sampler {
    pub(super) fn new(
        component: NamedComponent<'_>,
        decision_type: &'static str,
        sampler_dropped: bool,
    ) -> Self {
        Self {
            policy_name: Arc::clone(component.policy_name()),
            policy_hash: Arc::clone(component.policy_hash()),
            component_id: Arc::clone(component.id()),
            decision_type,
            sampler_dropped,
        }
    }
}

impl Hash for WorkloadOf<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.component.policy_name().hash(state);
        self.component.policy_hash().hash(state);
        self.component.id().hash(state);
        self.name.hash(state);
    }
}

impl Equivalent<Workload> for WorkloadOf<'_> {
    fn equivalent(&self, key: &Workload) -> bool {
        *self.component.policy_name() == key.policy_name
            && *self.component.policy_hash() == key.policy_hash
            && *self.component.id() == key.component_id
            && *self.name == *key.workload_index
    }
}

/// A component that is in force under this hash.
fn standing(names: &InForceNames, policy: &str, hash: &str, id: &str) -> Standing {
    let found = names.component(policy, id, hash);
    match found.is_some_and(|component| **component.policy_hash() == *hash) {
        true => Standing::Reserved,
        false => Standing::Gone,
    }
}

/// Like [`standing`], of a workload that the component has.
fn workload_standing(names: &InForceNames, [policy, hash, id, workload]: [&str; 4]) -> Standing {
    let found = names.component(policy, id, hash);
    let has = found.is_some_and(|component| {
        workload == OTHER_WORKLOAD || component.workload(workload).is_some()
    });
    match has {
        true => standing(names, policy, hash, id),
        false => Standing::Gone,
    }
}

macro_rules! of_component {
    ($($labels:ty),*) => {
        $(impl Labels for $labels {
            fn standing(&self, names: &InForceNames) -> Standing {
                standing(names, &self.policy_name, &self.policy_hash, &self.component_id)
            }
        })*
    };
}

macro_rules! of_workload {
    ($($labels:ty),*) => {
        $(impl Labels for $labels {
            fn standing(&self, names: &InForceNames) -> Standing {
                workload_standing(names, [
                    &self.policy_name,
                    &self.policy_hash,
                    &self.component_id,
                    &self.workload_index,
                ])
            }
        })*
    };
}

of_component!(Component, Limiter, Sampler);
of_workload!(Workload, WorkloadRequests);
