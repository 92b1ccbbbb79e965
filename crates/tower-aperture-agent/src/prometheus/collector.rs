//! Exports the statistics of a [`Prometheus`] to `/metrics`.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Prometheus;

/// Exports the counters of a [`Prometheus`].
#[derive(Debug)]
pub(crate) struct PrometheusCollector(pub(crate) Prometheus);

impl Collector for PrometheusCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = self.0.stats();
        for (name, help, value) in [
            (
                "prometheus_answers",
                "Query results of one number",
                stats.answered,
            ),
            (
                "prometheus_empty_answers",
                "Query results without a series",
                stats.empty,
            ),
            (
                "prometheus_failures",
                "Queries that failed, timed out, or returned something other than one number",
                stats.failed,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        for (name, help, value) in [
            ("prometheus_queries", "Queries of policies", stats.queries),
            (
                "prometheus_invalid_queries",
                "Queries whose last answer was not a number",
                stats.invalid,
            ),
        ] {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }
}
