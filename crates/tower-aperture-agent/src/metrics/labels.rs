//! Label sets that identify components of policies and their workloads.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hashbrown::Equivalent;
use prometheus_client::encoding::EncodeLabelSet;

use super::bounded_family::{SeriesClass, SeriesLabels};
use aperture_engine::engine::{InForceNames, NamedComponent};

/// Replaces workload names that come from the value of a flow label, which must not be shown.
const OTHER_WORKLOAD: &str = "other";

/// The labels of a component.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ComponentLabels {
    policy_name: Arc<str>,
    policy_hash: Arc<str>,
    component_id: Arc<str>,
}

/// The labels of a workload of a scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WorkloadLabels {
    policy_name: Arc<str>,
    policy_hash: Arc<str>,
    component_id: Arc<str>,
    workload_index: Arc<str>,
}

/// A borrowed [`WorkloadLabels`].
#[derive(Clone, Copy)]
pub(super) struct WorkloadRef<'a> {
    component: NamedComponent<'a>,
    name: &'a str,
}

/// The labels of a limiter's decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LimiterLabels {
    policy_name: Arc<str>,
    policy_hash: Arc<str>,
    component_id: Arc<str>,
    decision_type: &'static str,
    limiter_dropped: bool,
}

/// The labels of a sampler's decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SamplerLabels {
    policy_name: Arc<str>,
    policy_hash: Arc<str>,
    component_id: Arc<str>,
    decision_type: &'static str,
    sampler_dropped: bool,
}

/// The labels of a decision about a flow of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WorkloadRequestLabels {
    policy_name: Arc<str>,
    policy_hash: Arc<str>,
    component_id: Arc<str>,
    workload_index: Arc<str>,
    decision_type: &'static str,
    limiter_dropped: bool,
}

impl ComponentLabels {
    pub(super) fn of(component: NamedComponent<'_>) -> Self {
        Self {
            policy_name: Arc::clone(component.policy_name()),
            policy_hash: Arc::clone(component.policy_hash()),
            component_id: Arc::clone(component.id()),
        }
    }
}

impl<'a> WorkloadRef<'a> {
    /// Returns the workload of a decision, under its name in the policy.
    pub(super) fn new(component: NamedComponent<'a>, workload: &str) -> Self {
        Self {
            component,
            name: component.workload(workload).unwrap_or(OTHER_WORKLOAD),
        }
    }

    pub(super) fn to_labels(self) -> WorkloadLabels {
        WorkloadLabels {
            policy_name: Arc::clone(self.component.policy_name()),
            policy_hash: Arc::clone(self.component.policy_hash()),
            component_id: Arc::clone(self.component.id()),
            workload_index: Arc::from(self.name),
        }
    }

    pub(super) fn requests(
        self,
        decision_type: &'static str,
        dropped: bool,
    ) -> WorkloadRequestLabels {
        WorkloadRequestLabels {
            policy_name: Arc::clone(self.component.policy_name()),
            policy_hash: Arc::clone(self.component.policy_hash()),
            component_id: Arc::clone(self.component.id()),
            workload_index: Arc::from(self.name),
            decision_type,
            limiter_dropped: dropped,
        }
    }
}

impl LimiterLabels {
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

impl SamplerLabels {
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

impl Hash for WorkloadRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.component.policy_name().hash(state);
        self.component.policy_hash().hash(state);
        self.component.id().hash(state);
        self.name.hash(state);
    }
}

impl Equivalent<WorkloadLabels> for WorkloadRef<'_> {
    fn equivalent(&self, key: &WorkloadLabels) -> bool {
        *self.component.policy_name() == key.policy_name
            && *self.component.policy_hash() == key.policy_hash
            && *self.component.id() == key.component_id
            && *self.name == *key.workload_index
    }
}

/// Returns `Reserved` if the component is in force with this policy hash.
fn component_class(names: &InForceNames, policy: &str, hash: &str, id: &str) -> SeriesClass {
    let found = names.component(policy, id, hash);
    match found.is_some_and(|component| **component.policy_hash() == *hash) {
        true => SeriesClass::Reserved,
        false => SeriesClass::Gone,
    }
}

/// Like [`component_class`], and requires that the component has the workload.
fn workload_class(names: &InForceNames, [policy, hash, id, workload]: [&str; 4]) -> SeriesClass {
    let found = names.component(policy, id, hash);
    let has = found.is_some_and(|component| {
        workload == OTHER_WORKLOAD || component.workload(workload).is_some()
    });
    match has {
        true => component_class(names, policy, hash, id),
        false => SeriesClass::Gone,
    }
}

macro_rules! impl_component_class {
    ($($labels:ty),*) => {
        $(impl SeriesLabels for $labels {
            fn class(&self, names: &InForceNames) -> SeriesClass {
                component_class(names, &self.policy_name, &self.policy_hash, &self.component_id)
            }
        })*
    };
}

macro_rules! impl_workload_class {
    ($($labels:ty),*) => {
        $(impl SeriesLabels for $labels {
            fn class(&self, names: &InForceNames) -> SeriesClass {
                workload_class(names, [
                    &self.policy_name,
                    &self.policy_hash,
                    &self.component_id,
                    &self.workload_index,
                ])
            }
        })*
    };
}

impl_component_class!(ComponentLabels, LimiterLabels, SamplerLabels);
impl_workload_class!(WorkloadLabels, WorkloadRequestLabels);
