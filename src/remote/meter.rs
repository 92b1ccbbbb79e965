//! What is counted here, for the `metrics` facade. All of it is there from the first call on, at
//! zero: a series that begins with what went wrong shows no rise.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use metrics::{Gauge, counter, gauge};

use super::agents::Agents;
use super::counters::Counters;
use crate::metrics::{
    AGENT_GIVEN_UP, AGENTS_GIVEN_UP, CACHE_WRITES, CHECKS_MOVED, CHECKS_SPARED, CHECKS_UNSETTLED,
    ENDS, ENDS_RETRIED, PROBES, SPANS, describe,
};

/// Asks the recorder for all handles, unless they are there.
pub(super) fn register(counters: &Counters, agents: &Agents) {
    describe();
    for agent in agents.iter() {
        agent.away.register(agent.address().unwrap_or("channel"));
    }
    let result = |name, result| move || counter!(name, "result" => result);
    counters.ends_delivered.record(result(ENDS, "delivered"));
    counters.ends_failed.record(result(ENDS, "failed"));
    counters.ends_dropped.record(result(ENDS, "dropped"));
    counters
        .cache_writes
        .record(result(CACHE_WRITES, "delivered"));
    counters
        .cache_writes_failed
        .record(result(CACHE_WRITES, "failed"));
    counters
        .cache_writes_dropped
        .record(result(CACHE_WRITES, "dropped"));
    counters.spans_exported.record(result(SPANS, "delivered"));
    counters.spans_failed.record(result(SPANS, "failed"));
    counters.spans_dropped.record(result(SPANS, "dropped"));
    counters.ends_retried.record(|| counter!(ENDS_RETRIED));
    counters.checks_moved.record(|| counter!(CHECKS_MOVED));
    counters.checks_spared.record(|| counter!(CHECKS_SPARED));
    counters
        .checks_unsettled
        .record(|| counter!(CHECKS_UNSETTLED));
    counters
        .agents_given_up
        .record(|| counter!(AGENTS_GIVEN_UP));
    counters.probes.record(|| counter!(PROBES));
}

/// Whether an Agent is given up. It adds to the gauge while that is so, for several clients may
/// have the same Agent; its drop takes that back.
#[derive(Debug, Default)]
pub(super) struct Away {
    gauge: OnceLock<Gauge>,
    now: AtomicBool,
}

impl Away {
    fn register(&self, agent: &str) {
        self.gauge
            .get_or_init(|| gauge!(AGENT_GIVEN_UP, "agent" => agent.to_owned()));
    }

    pub(super) fn set(&self, away: bool) {
        if self.now.swap(away, SeqCst) == away {
            return;
        }
        if let Some(gauge) = self.gauge.get() {
            gauge.increment(if away { 1.0 } else { -1.0 });
        }
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.set(false);
    }
}
