//! Exports the readings of the signals of policies in force.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use aperture_engine::engine::{Engine, Shared, SignalReadings};

/// Exports the signal readings that the engine counts; they are removed with their policies.
#[derive(Debug)]
pub(super) struct SignalCollector(pub(super) Engine<Shared>);

fn labels(readings: &SignalReadings) -> [(&'static str, &str); 3] {
    [
        ("policy_name", &*readings.policy_name),
        ("sub_circuit_id", &*readings.circuit),
        ("signal_name", &*readings.name),
    ]
}

impl Collector for SignalCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.0.signal_readings();
        let mut readings = encoder.encode_descriptor(
            "signal_reading",
            "Finite readings of signals",
            None,
            MetricType::Histogram,
        )?;
        for signal in &all {
            let labels = labels(signal);
            let mut family = readings.encode_family(&labels)?;
            let buckets = [(f64::INFINITY, signal.count)];
            family.encode_histogram::<NoLabelSet>(signal.sum, signal.count, &buckets, None)?;
        }
        let mut invalid = encoder.encode_descriptor(
            "invalid_signal_readings",
            "Readings of signals that are invalid",
            None,
            MetricType::Counter,
        )?;
        for signal in &all {
            ConstCounter::new(signal.invalid).encode(invalid.encode_family(&labels(signal))?)?;
        }
        let mut infinite = encoder.encode_descriptor(
            "infinite_signal_readings",
            "Readings of signals that are infinite",
            None,
            MetricType::Counter,
        )?;
        for signal in &all {
            ConstCounter::new(signal.infinite).encode(infinite.encode_family(&labels(signal))?)?;
        }
        Ok(())
    }
}
