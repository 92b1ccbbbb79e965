//! What `/metrics` shows: an Agent's own series where it has them.
//!
//! `/metrics` needs no API key, and callers choose some of its labels. So the value of a flow's label
//! is never shown, and each name has a bounded number of series: those that a policy in force names
//! have places of their own ([`MOST_RESERVED`]), those that callers make up share [`MOST_SERIES`],
//! and those of policies that are not in force are forgotten. Observations without a series are
//! counted.

mod caches;
mod checks;
mod http;
mod labels;
mod node;
mod schedulers;
mod series;
mod signals;
mod spans;

use std::borrow::Cow;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use self::caches::CacheSeries;
use self::checks::CheckSeries;
pub(super) use self::http::{Handler, HttpSeries};
pub(super) use self::node::Node;
use self::signals::OfSignals;
use self::spans::SpanSeries;
use super::prometheus::{OfPrometheus, Prometheus};
use super::status::Decisions;
use crate::Engine;
use crate::engine::{CheckReport, InForceNames};

/// Series of one name with labels that callers chose.
const MOST_SERIES: usize = 10_000;
/// Series of one name whose labels are all names of policies.
const MOST_RESERVED: usize = 50_000;
/// Bytes of a label that a caller chooses.
const LONGEST_LABEL: usize = 256;

pub(super) struct Metrics {
    registry: Registry,
    engine: Engine,
    /// As they were when series were made or forgotten last.
    names: RwLock<InForceNames>,
    checks: CheckSeries,
    pub(super) caches: CacheSeries,
    pub(super) http: HttpSeries,
    pub(super) spans: SpanSeries,
    pub(super) node: Node,
}

impl Metrics {
    pub(super) fn new(engine: &Engine, prometheus: Option<Prometheus>) -> Self {
        let group = Cow::Owned(engine.agent_group().to_owned());
        let labels = [(Cow::Borrowed("agent_group"), group)];
        let mut registry = Registry::with_labels(labels.into_iter());
        let left_out = Counter::default();
        registry.register(
            "tower_aperture_agent_series_left_out",
            "Observations without a series: too many, a label that is too long, or no such policy",
            left_out.clone(),
        );
        if let Some(prometheus) = prometheus {
            registry
                .sub_registry_with_prefix("tower_aperture_agent")
                .register_collector(Box::new(OfPrometheus(prometheus)));
        }
        registry.register_collector(Box::new(OfSignals(engine.clone())));
        Self {
            names: RwLock::new(engine.names()),
            checks: CheckSeries::new(&mut registry, &left_out),
            caches: CacheSeries::new(&mut registry),
            http: HttpSeries::new(&mut registry),
            spans: SpanSeries::new(&mut registry, &left_out),
            node: Node::new(&mut registry, engine),
            engine: engine.clone(),
            registry,
        }
    }

    /// Returns the names of the policies in force, and forgets the series of those that were
    /// before. While it is held, no series are forgotten: never across an await.
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

    pub(super) fn decided(&self, report: &CheckReport) {
        self.checks.decided(&self.names(), report);
        if let Some(found) = &report.cache_lookup {
            self.caches.looked_up(found);
        }
    }

    /// A caller reported the end of a flow.
    pub(super) fn ended(&self, control_point: &str) {
        self.checks.ended(&self.names(), control_point);
    }

    pub(super) fn kinds(&self) -> Vec<Decisions> {
        let kinds = self.checks.kinds();
        kinds
            .map(|(kind, accepted, dropped)| Decisions {
                kind,
                accepted,
                dropped,
            })
            .collect()
    }

    /// In the text format of OpenMetrics.
    pub(super) fn text(&self) -> String {
        drop(self.names());
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}
