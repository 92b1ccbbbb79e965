//! The policies in force, which a reload replaces as a whole.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ahash::RandomState;

use super::adaptive_limits::AdaptiveSettings;
use super::classify::Classifiers;
use super::component::ComponentContext;
use super::control::{Control, SignalSource};
use super::counted_outcomes::CountedOutcomes;
use super::dry_run::DryRunPolicies;
use super::engine_flow::EngineFlow;
use super::flux_meter::{FluxMeters, MatchedMeters};
use super::index::Index;
use super::queries::PolicyQuery;
use super::registry::Component;
use crate::policy::{ComparedValues, DynamicConfigDocument, LoadedPolicy, PolicyWarning};

/// The group of an Agent without a configured group.
pub(super) const DEFAULT_GROUP: &str = "default";

/// The settings of the engine, which a reload does not change.
#[derive(Debug)]
pub(super) struct EngineSettings {
    pub(super) agent_group: Option<String>,
    pub(super) component_context: ComponentContext,
    pub(super) signal_source: Option<Arc<dyn SignalSource>>,
    pub(super) dry_run: DryRunPolicies,
    pub(super) adaptive: AdaptiveSettings,
    pub(super) counted_outcomes: CountedOutcomes,
}

/// Everything that is derived from the texts of the policies. Flows that began under an older
/// snapshot keep its components alive as long as they use them.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) index: Index,
    pub(super) classifiers: Classifiers,
    pub(super) flux_meters: FluxMeters,
    pub(super) control: Control<Component>,
    /// The values that matchers compare labels with.
    pub(super) compared: ComparedValues,
    /// True if a load scheduler measures the latency of its workloads.
    pub(super) times_workloads: bool,
    pub(super) warnings: Vec<PolicyWarning>,
    /// The queries for the signal source.
    pub(super) queries: Vec<PolicyQuery>,
    /// A description of the policies in force, policy by policy.
    pub(super) description: String,
    pub(super) policy_names: HashSet<Arc<str>>,
    /// The parsed policies by file name.
    pub(super) by_file: HashMap<Arc<str>, Arc<CachedPolicy>, RandomState>,
}

/// A parsed policy. A reload reuses it while its text and its dynamic configuration are unchanged.
#[derive(Debug)]
pub(super) struct CachedPolicy {
    pub(super) file: Arc<str>,
    pub(super) text: Arc<str>,
    pub(super) dynamic: Vec<DynamicConfigDocument>,
    pub(super) loaded: LoadedPolicy,
    pub(super) description: String,
    /// A text that identifies what the control loop of the policy computes.
    pub(super) circuit_text: Box<str>,
}

impl Snapshot {
    pub(super) fn empty(settings: &EngineSettings) -> Self {
        Self {
            index: Index::default(),
            classifiers: Classifiers::default(),
            flux_meters: FluxMeters::default(),
            control: Control::new(Vec::new(), settings.signal_source.clone()),
            compared: ComparedValues::default(),
            times_workloads: false,
            warnings: Vec::new(),
            queries: Vec::new(),
            description: String::new(),
            policy_names: HashSet::new(),
            by_file: HashMap::default(),
        }
    }

    /// Returns the number of policies that were parsed since `before`.
    #[cfg(test)]
    pub(super) fn count_reparsed(&self, before: &Self) -> usize {
        let policies = self.by_file.iter();
        let new = policies.filter(|(file, policy)| {
            let before = before.by_file.get(*file);
            !before.is_some_and(|before| Arc::ptr_eq(before, policy))
        });
        new.count()
    }

    /// Returns true if a policy of this name is in force.
    pub(super) fn has_policy(&self, name: &str) -> bool {
        self.policy_names.contains(name)
    }

    /// Returns true if a component, classifier or flux meter selects the control point.
    pub(super) fn selects(&self, control_point: &str) -> bool {
        self.index.selects(control_point)
            || self.classifiers.selects(control_point)
            || self.flux_meters.selects(control_point)
    }

    /// Returns true if a load scheduler or a flux meter measures the latency of flows.
    #[inline]
    pub(super) fn times_flows(&self) -> bool {
        self.times_workloads || !self.flux_meters.is_empty()
    }

    /// Returns true if flows that no component selects are only counted: no meter measures them, and
    /// no control loop waits for them.
    pub(super) fn only_counts_unselected(&self) -> bool {
        !self.control.is_on() && !self.times_flows()
    }

    /// Returns the flux meters and workloads that measure the latency of a flow.
    #[inline]
    pub(super) fn matched(&self, flow: &EngineFlow<'_, '_>) -> MatchedMeters {
        let matched = self.flux_meters.matching(flow);
        if self.times_workloads {
            return matched.with_workloads(self.index.workloads(flow));
        }
        matched
    }
}
