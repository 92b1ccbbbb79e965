//! Registers the counters of the remote client as metrics.
//!
//! All series start at zero with the first call: a series that starts with the first failure would
//! show no increase.

use metrics::{counter, gauge};

use crate::metrics::{
    AGENT_GIVEN_UP, AGENTS_GIVEN_UP, CACHE_WRITES, CHECKS_MOVED, CHECKS_SPARED, CHECKS_UNSETTLED,
    ENDS, ENDS_RETRIED, PROBES, SPANS, describe,
};
use crate::remote::agents::Agents;
use crate::remote::counters::{Counter, RemoteCounters};
use crate::remote::given_up_gauge::GivenUpGauge;

pub(in crate::remote) type MetricCounter = metrics::Counter;
pub(in crate::remote) type MetricGauge = metrics::Gauge;

/// Registers all metrics, unless that was done before.
pub(in crate::remote) fn register(counters: &RemoteCounters, agents: &Agents) {
    describe();
    for agent in agents.iter() {
        agent
            .given_up_gauge
            .register(agent.address().unwrap_or("channel"));
    }
    let result = |name, result| move || counter!(name, "result" => result);
    counters
        .ends_delivered
        .set_metric(result(ENDS, "delivered"));
    counters.ends_failed.set_metric(result(ENDS, "failed"));
    counters.ends_dropped.set_metric(result(ENDS, "dropped"));
    counters
        .cache_writes
        .set_metric(result(CACHE_WRITES, "delivered"));
    counters
        .cache_writes_failed
        .set_metric(result(CACHE_WRITES, "failed"));
    counters
        .cache_writes_dropped
        .set_metric(result(CACHE_WRITES, "dropped"));
    counters
        .spans_exported
        .set_metric(result(SPANS, "delivered"));
    counters.spans_failed.set_metric(result(SPANS, "failed"));
    counters.spans_dropped.set_metric(result(SPANS, "dropped"));
    counters.ends_retried.set_metric(|| counter!(ENDS_RETRIED));
    counters.checks_moved.set_metric(|| counter!(CHECKS_MOVED));
    counters
        .checks_not_sent
        .set_metric(|| counter!(CHECKS_SPARED));
    counters
        .checks_unsettled
        .set_metric(|| counter!(CHECKS_UNSETTLED));
    counters
        .agents_given_up
        .set_metric(|| counter!(AGENTS_GIVEN_UP));
    counters.probes.set_metric(|| counter!(PROBES));
}

impl Counter {
    /// Increments this metric as well from now on.
    fn set_metric(&self, metric: impl FnOnce() -> MetricCounter) {
        self.metric.get_or_init(metric);
    }
}

impl GivenUpGauge {
    fn register(&self, agent: &str) {
        self.gauge
            .get_or_init(|| gauge!(AGENT_GIVEN_UP, "agent" => agent.to_owned()));
    }
}
