//! What the signals of the policies in force were, evaluation by evaluation.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::engine::{Engine, SignalReadings};

/// Counted by the engine, and forgotten with their policies.
#[derive(Debug)]
pub(super) struct OfSignals(pub(super) Engine);

fn labels(readings: &SignalReadings) -> [(&'static str, &str); 3] {
    [
        ("policy_name", &*readings.policy_name),
        ("sub_circuit_id", &*readings.circuit),
        ("signal_name", &*readings.name),
    ]
}

impl Collector for OfSignals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.0.signal_readings();
        let mut readings = encoder.encode_descriptor(
            "signal_reading",
            "Finite readings of signals",
            None,
            MetricType::Histogram,
        )?;
        for one in &all {
            let labels = labels(one);
            let mut family = readings.encode_family(&labels)?;
            let buckets = [(f64::INFINITY, one.count)];
            family.encode_histogram::<NoLabelSet>(one.sum, one.count, &buckets, None)?;
        }
        let mut invalid = encoder.encode_descriptor(
            "invalid_signal_readings",
            "Readings of signals that are invalid",
            None,
            MetricType::Counter,
        )?;
        for one in &all {
            ConstCounter::new(one.invalid).encode(invalid.encode_family(&labels(one))?)?;
        }
        let mut infinite = encoder.encode_descriptor(
            "infinite_signal_readings",
            "Readings of signals that are infinite",
            None,
            MetricType::Counter,
        )?;
        for one in &all {
            ConstCounter::new(one.infinite).encode(infinite.encode_family(&labels(one))?)?;
        }
        Ok(())
    }
}
