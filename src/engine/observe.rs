//! What a server tells the engine about flows, and is told about its components.

use std::sync::Arc;

use super::Engine;
use super::clock::nanos;
use super::component_entry::ComponentEntry;
use super::flux_meter::FluxMeter;
use super::limiters::Component;
use super::snapshot::Snapshot;

pub(crate) use super::control::SignalReadings;

/// What the policies in force name: all of it is in their text, and none of it in a request.
#[derive(Debug)]
pub(crate) struct Names(Arc<Snapshot>);

impl Names {
    /// Returns true while these policies are in force.
    pub(crate) fn are_current(&self, engine: &Engine) -> bool {
        Arc::ptr_eq(&self.0, &engine.shared.live.load())
    }

    /// Returns true for a control point of some selector.
    pub(crate) fn selects(&self, control_point: &str) -> bool {
        self.0.selects(control_point)
    }

    /// Returns a component, if it has or had this hash.
    pub(crate) fn component(
        &self,
        policy: &str,
        id: &str,
        hash: &str,
    ) -> Option<NamedComponent<'_>> {
        let found = self.0.index.named(policy, id)?;
        found.has_had_hash(hash).then_some(NamedComponent(found))
    }

    /// Returns true for a classifier.
    pub(crate) fn classifier(&self, policy: &str, hash: &str, index: i64) -> bool {
        self.0.classifiers.has(policy, hash, index)
    }

    /// Returns true for a flux meter of a policy.
    pub(crate) fn flux_meter(&self, policy: &str, name: &str) -> bool {
        let meter = self.0.flux_meters.get(name);
        meter.is_some_and(|meter| meter.policy_name() == policy)
    }
}

/// A component in force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NamedComponent<'a>(&'a ComponentEntry);

impl<'a> NamedComponent<'a> {
    pub(crate) fn policy_name(self) -> &'a Arc<str> {
        &self.0.policy_name
    }

    /// The hash that it has now.
    pub(crate) fn policy_hash(self) -> &'a Arc<str> {
        &self.0.policy_hash
    }

    pub(crate) fn id(self) -> &'a Arc<str> {
        &self.0.component_id
    }

    /// Returns the policy's own name of a workload; `None` for one that is made of a label's value.
    pub(crate) fn workload(self, workload: &str) -> Option<&'a str> {
        self.0.limiter.workloads()?.named(workload)
    }
}

/// A component that decides now.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub(crate) policy_name: Arc<str>,
    pub(crate) component_id: Arc<str>,
    pub(crate) kind: &'static str,
    pub(crate) keys: usize,
    pub(crate) evicted: u64,
}

impl Engine {
    /// The group that selectors are meant for.
    pub(crate) fn agent_group(&self) -> &str {
        let group = self.shared.settings.agent_group.as_deref();
        group.unwrap_or(super::snapshot::DEFAULT_GROUP)
    }

    /// Returns what the policies in force name.
    pub(crate) fn names(&self) -> Names {
        Names(self.shared.live.load_full())
    }

    /// Returns what the signals of the policies in force were so far.
    pub(crate) fn signal_readings(&self) -> Vec<SignalReadings> {
        self.catch_up();
        self.shared.live.load().control.readings()
    }

    /// A flux meter in force, to be told what it cannot measure itself.
    pub(crate) fn flux_meter(&self, name: &str) -> Option<Arc<FluxMeter>> {
        self.shared.live.load().flux_meters.get(name).cloned()
    }

    /// Control loops first: what is told now was not seen by the ticks before.
    pub(crate) fn catch_up(&self) {
        let live = self.shared.live.load();
        live.control.catch_up(nanos(self.shared.clock.now()));
    }

    /// A flow of a workload took so many milliseconds; nothing happens where nobody cares.
    pub(crate) fn observe_workload(
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
        if let Some(Component::LoadScheduler(scheduler)) = found.map(|one| &*one.limiter)
            && let Some(latency) = scheduler.latency()
        {
            latency.record(workload, millis, nanos(self.shared.clock.now()));
        }
    }

    /// All components in force, policy by policy.
    pub(crate) fn components(&self) -> Vec<InForce> {
        let live = self.shared.live.load();
        let components = live.index.components().iter();
        components
            .map(|one| InForce {
                policy_name: Arc::clone(&one.policy_name),
                component_id: Arc::clone(&one.component_id),
                kind: match &*one.limiter {
                    Component::RateLimiter(_) => "rate_limiter",
                    Component::ConcurrencyLimiter(_) => "concurrency_limiter",
                    Component::Sampler(_) => "sampler",
                    Component::QuotaScheduler(_) => "quota_scheduler",
                    Component::ConcurrencyScheduler(_) => "concurrency_scheduler",
                    Component::LoadScheduler(_) => "load_scheduler",
                },
                keys: one.limiter.keys(),
                evicted: one.limiter.evicted(),
            })
            .collect()
    }
}
