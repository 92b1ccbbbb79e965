//! The node itself.

use std::fmt;
use std::sync::atomic::AtomicI64;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use crate::Engine;

#[derive(Debug, Default)]
pub(in crate::agent) struct Node {
    /// Flows in queues.
    pub(in crate::agent) waiting: Gauge<i64, AtomicI64>,
    /// Flows that should have waited where there was no room.
    pub(in crate::agent) crowded_out: Counter,
    pub(in crate::agent) connections: Gauge<i64, AtomicI64>,
    /// Connections that were closed because there were too many.
    pub(in crate::agent) turned_away: Counter,
    /// Connections that were closed because nothing was asked for too long.
    pub(in crate::agent) idle_closed: Counter,
    /// Connections that were closed because an answer was not taken in time.
    pub(in crate::agent) untaken_closed: Counter,
    /// Calls that were refused because callers hold too much memory.
    pub(in crate::agent) over_budget: Counter,
    /// Calls without a good key.
    pub(in crate::agent) unauthenticated: Counter,
    /// Answers that granted something and that nobody took.
    pub(in crate::agent) undelivered: Counter,
}

impl Node {
    pub(super) fn new(registry: &mut Registry, engine: &Engine) -> Self {
        let own = Self::default();
        let node = registry.sub_registry_with_prefix("tower_aperture_agent");
        node.register("waiting", "Flows in queues", own.waiting.clone());
        node.register(
            "crowded_out",
            "Flows turned away because too many wait",
            own.crowded_out.clone(),
        );
        node.register("connections", "Connections", own.connections.clone());
        node.register(
            "connections_turned_away",
            "Connections closed because there are too many",
            own.turned_away.clone(),
        );
        node.register(
            "connections_idle_closed",
            "Connections closed because nothing was asked for too long",
            own.idle_closed.clone(),
        );
        node.register(
            "connections_untaken_closed",
            "Connections closed because an answer was not taken in time",
            own.untaken_closed.clone(),
        );
        node.register(
            "over_budget",
            "Calls refused because callers hold too much memory",
            own.over_budget.clone(),
        );
        node.register(
            "unauthenticated",
            "Calls without a known key",
            own.unauthenticated.clone(),
        );
        node.register(
            "undelivered",
            "Answers that nobody took; what they granted was given back",
            own.undelivered.clone(),
        );
        node.register_collector(Box::new(OfEngine(engine.clone())));
        own
    }
}

/// What the engine counts itself.
#[derive(Debug)]
struct OfEngine(Engine);

impl Collector for OfEngine {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = self.0.stats();
        for (name, help, value) in [
            (
                "evicted_keys",
                "Keys that made room for others",
                stats.evicted,
            ),
            (
                "reloads",
                "Policies put in force while running",
                stats.reloads,
            ),
            (
                "failed_reloads",
                "Policies refused while running",
                stats.failed_reloads,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        let keys = i64::try_from(stats.keys).unwrap_or(i64::MAX);
        let metric =
            encoder.encode_descriptor("keys", "Keys with state", None, MetricType::Gauge)?;
        ConstGauge::new(keys).encode(metric)
    }
}
