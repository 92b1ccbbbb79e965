//! What `/metrics` shows: an Agent's own series where it has them.
//!
//! Labels come from callers, too, so each name has a bounded number of series; what is not counted
//! for that reason is counted as such.

mod checks;
mod node;
mod series;
mod spans;

use std::borrow::Cow;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use self::checks::CheckSeries;
pub(super) use self::node::Node;
use self::spans::SpanSeries;
use super::prometheus::{OfPrometheus, Prometheus};
use super::status::Decisions;
use crate::Engine;
use crate::engine::CheckReport;

/// Series of one name.
const MOST_SERIES: usize = 10_000;
/// Bytes of a label that a caller chooses.
const LONGEST_LABEL: usize = 256;

pub(super) struct Metrics {
    registry: Registry,
    checks: CheckSeries,
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
            "Observations without a series, because there are too many or a label is too long",
            left_out.clone(),
        );
        if let Some(prometheus) = prometheus {
            registry
                .sub_registry_with_prefix("tower_aperture_agent")
                .register_collector(Box::new(OfPrometheus(prometheus)));
        }
        Self {
            checks: CheckSeries::new(&mut registry, &left_out),
            spans: SpanSeries::new(&mut registry, &left_out),
            node: Node::new(&mut registry, engine),
            registry,
        }
    }

    pub(super) fn decided(&self, report: &CheckReport) {
        self.checks.decided(report);
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
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}
