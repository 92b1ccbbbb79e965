//! The engine's interface for the agent: measurements that the agent reports, and what its metrics
//! read.

use std::sync::Arc;

use super::clock::nanos;
use super::component_entry::ComponentEntry;
use super::flux_meter::FluxMeter;
use super::schedulers::Scheduler;
use super::snapshot::Snapshot;
use super::{Engine, EngineMode};

pub use super::control::SignalReadings;

/// The names in the policies in force. All of them come from the text of policies, and none from a
/// request, so they are safe as labels of metrics.
#[derive(Debug)]
pub struct InForceNames(Arc<Snapshot>);

impl InForceNames {
    /// Returns true while these policies are in force.
    pub fn are_current<M: EngineMode>(&self, engine: &Engine<M>) -> bool {
        Arc::ptr_eq(&self.0, &engine.shared.live.load())
    }

    /// Returns true if a selector names the control point.
    pub fn selects(&self, control_point: &str) -> bool {
        self.0.selects(control_point)
    }

    /// Returns the component if its policy has or had this hash.
    pub fn component(&self, policy: &str, id: &str, hash: &str) -> Option<NamedComponent<'_>> {
        let found = self.0.index.named(policy, id)?;
        found.has_had_hash(hash).then_some(NamedComponent(found))
    }

    /// Returns true if the classifier is in force.
    pub fn classifier(&self, policy: &str, hash: &str, index: i64) -> bool {
        self.0.classifiers.has(policy, hash, index)
    }

    /// Returns true if the flux meter belongs to the policy and is in force.
    pub fn flux_meter(&self, policy: &str, name: &str) -> bool {
        let meter = self.0.flux_meters.get(name);
        meter.is_some_and(|meter| meter.policy_name() == policy)
    }
}

/// A component in force.
#[derive(Clone, Copy, Debug)]
pub struct NamedComponent<'a>(&'a ComponentEntry);

impl<'a> NamedComponent<'a> {
    /// Returns the name of its policy.
    pub fn policy_name(self) -> &'a Arc<str> {
        &self.0.policy_name
    }

    /// Returns the current hash of the policy.
    pub fn policy_hash(self) -> &'a Arc<str> {
        &self.0.policy_hash
    }

    /// Returns the id of the component.
    pub fn id(self) -> &'a Arc<str> {
        &self.0.component_id
    }

    /// Returns the name of a workload in the policy; `None` for a workload that is named by the
    /// value of a label.
    pub fn workload(self, workload: &str) -> Option<&'a str> {
        self.0.component.scheduler()?.workloads().named(workload)
    }
}

/// The size of a component in force, for metrics.
#[derive(Clone, Debug)]
pub struct ComponentStats {
    /// The name of the policy.
    pub policy_name: Arc<str>,
    /// The id of the component in the policy.
    pub component_id: Arc<str>,
    /// The kind of the component, as policies name it.
    pub kind: &'static str,
    /// The number of keys with state.
    pub keys: usize,
    /// The number of keys that were evicted to make room for others.
    pub evicted: u64,
}

impl<M: EngineMode> Engine<M> {
    /// Returns the agent group that selectors are matched with.
    #[doc(hidden)]
    pub fn agent_group(&self) -> &str {
        let group = self.shared.settings.agent_group.as_deref();
        group.unwrap_or(super::snapshot::DEFAULT_GROUP)
    }

    /// Returns the names in the policies in force.
    #[doc(hidden)]
    pub fn names(&self) -> InForceNames {
        InForceNames(self.shared.live.load_full())
    }

    /// Evaluates the ticks that are due and returns the readings of the signals of the policies in
    /// force.
    #[doc(hidden)]
    pub fn signal_readings(&self) -> Vec<SignalReadings> {
        self.catch_up();
        self.shared.live.load().control.readings()
    }

    /// Returns a flux meter in force, to record values that the engine does not measure itself.
    #[doc(hidden)]
    pub fn flux_meter(&self, name: &str) -> Option<Arc<FluxMeter>> {
        self.shared.live.load().flux_meters.get(name).cloned()
    }

    /// Evaluates the ticks that are due. Called before a new measurement is recorded, which earlier
    /// ticks must not see.
    #[doc(hidden)]
    pub fn catch_up(&self) {
        let live = self.shared.live.load();
        live.control.catch_up(nanos(self.shared.clock.now()));
    }

    /// Records the latency of a flow of a workload in milliseconds, if its load scheduler measures
    /// latency.
    #[doc(hidden)]
    pub fn observe_workload(
        &self,
        policy_name: &str,
        component_id: &str,
        workload: &str,
        millis: f64,
    ) {
        let live = self.shared.live.load();
        if !live.times_workloads {
            return;
        }
        let found = live.index.named(policy_name, component_id);
        let scheduler = found.and_then(|entry| entry.component.scheduler());
        if let Some(latency) = scheduler.and_then(Scheduler::latency) {
            latency.record(workload, millis, nanos(self.shared.clock.now()));
        }
    }

    /// Returns all components in force, policy by policy.
    #[doc(hidden)]
    pub fn components(&self) -> Vec<ComponentStats> {
        let live = self.shared.live.load();
        let entries = live.index.components().iter();
        entries
            .map(|entry| ComponentStats {
                policy_name: Arc::clone(&entry.policy_name),
                component_id: Arc::clone(&entry.component_id),
                kind: entry.component.reported_kind().name(),
                keys: entry.component.keys(),
                evicted: entry.component.evicted(),
            })
            .collect()
    }
}
