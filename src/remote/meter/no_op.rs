//! Metrics that cannot exist, for builds without the feature `metrics`.

use crate::remote::agents::Agents;
use crate::remote::counters::RemoteCounters;

#[derive(Debug)]
pub(in crate::remote) enum MetricCounter {}

#[derive(Debug)]
pub(in crate::remote) enum MetricGauge {}

impl MetricCounter {
    pub(in crate::remote) const fn increment(&self, _: u64) {
        match *self {}
    }
}

impl MetricGauge {
    pub(in crate::remote) const fn increment(&self, _: f64) {
        match *self {}
    }
}

/// Registers nothing.
pub(in crate::remote) const fn register(_: &RemoteCounters, _: &Agents) {}
