//! What a server tells the engine about flows, and is told about its components.

use std::sync::Arc;

use super::Engine;
use super::clock::nanos;
use super::flux_meter::FluxMeter;
use super::limiters::Component;

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
        let mut components = live.index.components().iter();
        let found = components
            .find(|one| *one.component_id == *component_id && *one.policy_name == *policy_name);
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
