//! Metrics of the agent process: connections, calls, keys and reloads.

use std::fmt;
use std::sync::atomic::AtomicI64;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use tower_aperture::engine::{Engine, Shared};

/// Metrics of the agent process.
#[derive(Debug, Default)]
pub(crate) struct ProcessSeries {
    /// Flows in queues.
    pub(crate) waiting: Gauge<i64, AtomicI64>,
    /// Flows that had to wait when no room was left.
    pub(crate) crowded_out: Counter,
    pub(crate) connections: Gauge<i64, AtomicI64>,
    /// Connections that were closed because there were too many.
    pub(crate) turned_away: Counter,
    /// Connections that were closed because they had no call for too long.
    pub(crate) idle_closed: Counter,
    /// Connections that were closed because the caller did not read a response in time.
    pub(crate) unread_closed: Counter,
    /// Calls that were refused because callers hold too much memory.
    pub(crate) over_budget: Counter,
    /// Calls without a valid API key.
    pub(crate) unauthenticated: Counter,
    /// Responses that granted slots and that the caller did not read.
    pub(crate) undelivered: Counter,
}

impl ProcessSeries {
    pub(super) fn new(registry: &mut Registry, engine: &Engine<Shared>) -> Self {
        let metrics = Self::default();
        let prefixed = registry.sub_registry_with_prefix("tower_aperture_agent");
        prefixed.register("waiting", "Flows in queues", metrics.waiting.clone());
        prefixed.register(
            "crowded_out",
            "Flows rejected because too many wait",
            metrics.crowded_out.clone(),
        );
        prefixed.register("connections", "Connections", metrics.connections.clone());
        prefixed.register(
            "connections_turned_away",
            "Connections closed because there are too many",
            metrics.turned_away.clone(),
        );
        prefixed.register(
            "connections_idle_closed",
            "Connections closed because they had no call for too long",
            metrics.idle_closed.clone(),
        );
        prefixed.register(
            "connections_untaken_closed",
            "Connections closed because a response was not read in time",
            metrics.unread_closed.clone(),
        );
        prefixed.register(
            "over_budget",
            "Calls refused because callers hold too much memory",
            metrics.over_budget.clone(),
        );
        prefixed.register(
            "unauthenticated",
            "Calls without a valid API key",
            metrics.unauthenticated.clone(),
        );
        prefixed.register(
            "undelivered",
            "Responses that callers did not read; their slots were returned",
            metrics.undelivered.clone(),
        );
        prefixed.register_collector(Box::new(EngineCollector(engine.clone())));
        metrics
    }
}

/// Exports the counters of the engine.
#[derive(Debug)]
struct EngineCollector(Engine<Shared>);

impl Collector for EngineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = self.0.stats();
        for (name, help, value) in [
            (
                "evicted_keys",
                "Keys evicted to make room for others",
                stats.evicted,
            ),
            (
                "reloads",
                "Reloads of policies that succeeded",
                stats.reloads,
            ),
            (
                "failed_reloads",
                "Reloads of policies that failed",
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
