//! Metrics of the store in which several agents share their limits.

use std::fmt;

use aperture_redis::Redis;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Exports the counters of the store.
#[derive(Debug)]
pub(super) struct SharedStoreCollector(pub(super) Redis);

impl Collector for SharedStoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = self.0.stats();
        for (name, help, value) in [
            ("operations", "Operations submitted", stats.operations),
            (
                "errors",
                "Operations that ended with an error",
                stats.errors,
            ),
            (
                "late",
                "Operations without an answer within the deadline",
                stats.late,
            ),
            (
                "decided_without",
                "Flows decided without the store",
                stats.decided_without,
            ),
            ("outages", "Times the store was given up", stats.outages),
            (
                "cache_operations",
                "Operations on shared caches submitted",
                stats.cache_operations,
            ),
            (
                "cache_errors",
                "Operations on shared caches that ended with an error",
                stats.cache_errors,
            ),
            (
                "cache_late",
                "Operations on shared caches without an answer within the deadline",
                stats.cache_late,
            ),
        ] {
            let counter = ConstCounter::new(value);
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        let held = i64::try_from(stats.held_slots).unwrap_or(i64::MAX);
        for (name, help, value) in [
            (
                "available",
                "1 while the store is used, 0 while it is given up",
                i64::from(stats.available),
            ),
            ("nodes", "Agents seen lately", i64::from(stats.nodes)),
            ("held_slots", "Slots that flows of this agent hold", held),
        ] {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
