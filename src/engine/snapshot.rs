//! The policies in force, which a reload swaps as a whole.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ahash::RandomState;

use super::classify::Classifiers;
use super::control::{Control, SignalSource};
use super::dry_run::DryRun;
use super::flux_meter::{FluxMeters, Matched};
use super::index::Index;
use super::limiters::{Component, Surroundings};
use super::queries::PolicyQuery;
use super::stages::Flow;
use crate::policy::{ComparedValues, DynamicConfigDocument, LoadedPolicy, PolicyWarning};

/// The group of an Agent that is given none.
pub(super) const DEFAULT_GROUP: &str = "default";

/// Settings of the engine, which a reload leaves as they are.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) agent_group: Option<String>,
    pub(super) surroundings: Surroundings,
    pub(super) signal_source: Option<Arc<dyn SignalSource>>,
    pub(super) dry_run: DryRun,
}

/// All that follows from the texts of the policies. Flows that began under an older snapshot keep
/// the components that they use alive.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) index: Index,
    pub(super) classifiers: Classifiers,
    pub(super) flux_meters: FluxMeters,
    pub(super) control: Control<Component>,
    /// The values that matchers compare labels with.
    pub(super) compared: ComparedValues,
    /// Some load scheduler measures what its workloads take.
    pub(super) times_workloads: bool,
    pub(super) warnings: Vec<PolicyWarning>,
    /// The queries for the signal source.
    pub(super) queries: Vec<PolicyQuery>,
    /// Describes what is in force, policy by policy.
    pub(super) description: String,
    /// The names of the policies.
    pub(super) policies: HashSet<Arc<str>>,
    /// By file.
    pub(super) known: HashMap<Arc<str>, Arc<Known>, RandomState>,
}

/// A policy as it was read. A reload uses it again while its text stays the same.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) file: Arc<str>,
    pub(super) text: Arc<str>,
    pub(super) dynamic: Vec<DynamicConfigDocument>,
    pub(super) loaded: LoadedPolicy,
    pub(super) description: String,
    /// Tells its loop from a changed one.
    pub(super) circuit: Box<str>,
}

impl Snapshot {
    pub(super) fn empty(settings: &Settings) -> Self {
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
            policies: HashSet::new(),
            known: HashMap::default(),
        }
    }

    /// Returns the number of policies that were read since `before`.
    #[cfg(test)]
    pub(super) fn read_again(&self, before: &Self) -> usize {
        let known = self.known.iter();
        let new = known.filter(|(file, known)| {
            let before = before.known.get(*file);
            !before.is_some_and(|before| Arc::ptr_eq(before, known))
        });
        new.count()
    }

    /// Returns true if a policy of this name is in force.
    pub(super) fn has_policy(&self, name: &str) -> bool {
        self.policies.contains(name)
    }

    /// Returns true if a component, classifier or flux meter selects the control point.
    pub(super) fn selects(&self, control_point: &str) -> bool {
        self.index.selects(control_point)
            || self.classifiers.selects(control_point)
            || self.flux_meters.selects(control_point)
    }

    /// Returns true if a load scheduler or a flux meter measures how long flows take.
    #[inline]
    pub(super) fn times_flows(&self) -> bool {
        self.times_workloads || !self.flux_meters.is_empty()
    }

    /// Returns the flux meters and workloads that measure how long a flow takes.
    #[inline]
    pub(super) fn matched(&self, flow: &Flow<'_, '_>) -> Matched {
        let matched = self.flux_meters.matching(flow);
        if self.times_workloads {
            return matched.with_workloads(self.index.workloads(flow));
        }
        matched
    }
}
