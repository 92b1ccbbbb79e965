//! The metrics of `/metrics`, under the names of an Agent where it has them.
//!
//! `/metrics` needs no API key, and callers choose some of its labels. For that reason the values
//! of flow labels are never shown, and the number of series of each metric is bounded: series whose
//! labels a policy in force names have a limit of their own (`MAX_RESERVED_SERIES`), series with
//! labels that callers chose share `MAX_SHARED_SERIES`, and series of policies that are not in
//! force are removed. Observations without a series are counted.

mod bounded_family;
mod caches;
mod checks;
mod http;
mod labels;
mod process;
mod schedulers;
mod shared_store;
mod signals;
mod spans;

use std::borrow::Cow;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use self::caches::CacheSeries;
use self::checks::CheckSeries;
pub(super) use self::checks::KindDecisions;
pub(super) use self::http::{HandlerLabels, HttpSeries};
pub(super) use self::process::ProcessSeries;
use self::shared_store::SharedStoreCollector;
use self::signals::SignalCollector;
use self::spans::SpanSeries;
use super::prometheus::{Prometheus, PrometheusCollector};
use aperture_engine::engine::{CheckReport, InForceNames};
use aperture_redis::Redis;
use tower_aperture::engine::{Engine, Shared};

/// All metrics of an agent.
pub(super) struct Metrics {
    registry: Registry,
    engine: Engine<Shared>,
    /// The names of policies at the last time series were created or removed.
    names: RwLock<InForceNames>,
    checks: CheckSeries,
    pub(super) caches: CacheSeries,
    pub(super) http: HttpSeries,
    pub(super) spans: SpanSeries,
    pub(super) process: ProcessSeries,
}

impl Metrics {
    pub(super) fn new(
        engine: &Engine<Shared>,
        prometheus: Option<Prometheus>,
        shared_store: Option<Redis>,
    ) -> Self {
        let group = Cow::Owned(engine.agent_group().to_owned());
        let labels = [(Cow::Borrowed("agent_group"), group)];
        let mut registry = Registry::with_labels(labels.into_iter());
        let left_out = Counter::default();
        registry.register(
            "tower_aperture_agent_series_left_out",
            "Observations without a series: too many series, a label that is too long, or no such policy",
            left_out.clone(),
        );
        if let Some(prometheus) = prometheus {
            registry
                .sub_registry_with_prefix("tower_aperture_agent")
                .register_collector(Box::new(PrometheusCollector(prometheus)));
        }
        if let Some(store) = shared_store {
            registry
                .sub_registry_with_prefix("tower_aperture_agent_shared_store")
                .register_collector(Box::new(SharedStoreCollector(store)));
        }
        registry.register_collector(Box::new(SignalCollector(engine.clone())));
        Self {
            names: RwLock::new(engine.names()),
            checks: CheckSeries::new(&mut registry, &left_out),
            caches: CacheSeries::new(&mut registry),
            http: HttpSeries::new(&mut registry),
            spans: SpanSeries::new(&mut registry, &left_out),
            process: ProcessSeries::new(&mut registry, engine),
            engine: engine.clone(),
            registry,
        }
    }

    /// Returns the names of the policies in force, and removes the series of policies that are no
    /// longer in force. No series are removed while the guard is held, so it must never be held
    /// across an await.
    pub(super) fn names(&self) -> RwLockReadGuard<'_, InForceNames> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        if names.are_current(&self.engine) {
            return names;
        }
        drop(names);
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if !names.are_current(&self.engine) {
            *names = self.engine.names();
            self.checks.retain(&names);
            self.spans.retain(&names);
        }
        drop(names);
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a decision.
    pub(super) fn decided(&self, report: &CheckReport) {
        self.checks.decided(&self.names(), report);
        if let Some(found) = &report.cache_lookup {
            self.caches.looked_up(found);
        }
    }

    /// Counts the end of a flow that a caller reported.
    pub(super) fn ended(&self, control_point: &str) {
        self.checks.ended(&self.names(), control_point);
    }

    /// Returns the decisions by kind of component.
    pub(super) fn kinds(&self) -> Vec<KindDecisions> {
        self.checks.kinds()
    }

    /// Returns all metrics in the OpenMetrics text format.
    pub(super) fn text(&self) -> String {
        drop(self.names());
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}
