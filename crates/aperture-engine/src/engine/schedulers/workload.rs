//! The scheduling parameters of a flow: workload, tokens, priority, fairness and deadline.

use std::sync::Arc;
use std::time::Duration;

use super::wfq::{FairnessQueue, fairness_queue};
use crate::engine::clock::{Nanos, nanos};
use crate::engine::engine_flow::{EngineFlow, LATEST_DEADLINE, NO_DEADLINE};
use crate::engine::workload_latency::WorkloadTokens;
use crate::policy;

/// The name of the workload of flows that match no other one.
const DEFAULT_WORKLOAD: &str = "default";
/// How long a fairness seed is used.
const SEED_LIFETIME: Nanos = 300_000_000_000;

/// A flow as a scheduler sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkloadRequest<'a> {
    pub(crate) workload: &'a str,
    pub(crate) tokens: f64,
    pub(crate) priority: f64,
    /// Empty without a fairness label.
    pub(crate) fairness: &'a str,
    /// When the flow has to be decided; [`NO_DEADLINE`] means never.
    pub(crate) deadline: Nanos,
}

/// The `scheduler` section of a component.
#[derive(Debug)]
pub(crate) struct Workloads(policy::Scheduler);

impl Workloads {
    pub(crate) fn new(spec: &policy::Scheduler) -> Self {
        Self(spec.clone())
    }

    pub(crate) fn denied_code(&self) -> i32 {
        self.0.denied_response_status_code
    }

    /// Returns the first workload that a flow matches, with its name.
    fn of(&self, flow: &EngineFlow<'_, '_>) -> (&str, &policy::WorkloadParameters) {
        let mut workloads = self.0.workloads.iter();
        match workloads.find(|workload| workload.matcher.matches(flow.labels)) {
            Some(workload) => (&*workload.label, &workload.parameters),
            None => (DEFAULT_WORKLOAD, &self.0.default_workload),
        }
    }

    /// Returns the name of a workload in the policy, or `None` for one that is named by the value
    /// of a label.
    pub(crate) fn named(&self, workload: &str) -> Option<&str> {
        let names = self.0.workloads.iter().map(|workload| &*workload.label);
        names
            .chain([DEFAULT_WORKLOAD])
            .find(|name| *name == workload)
    }

    /// Returns the longest `queue_timeout` of the workloads, or 0 if none has one.
    pub(crate) fn longest_queue_timeout(&self) -> Nanos {
        let workloads = self.0.workloads.iter();
        workloads
            .map(|workload| &workload.parameters)
            .chain([&self.0.default_workload])
            .filter_map(|parameters| parameters.queue_timeout)
            .map(nanos)
            .max()
            .unwrap_or(0)
    }

    /// Returns the name of a flow's workload and its `queue_timeout`, if the policy sets one.
    pub(crate) fn queue_timeout(&self, flow: &EngineFlow<'_, '_>) -> Option<(&str, Duration)> {
        let (name, parameters) = self.of(flow);
        Some((name, parameters.queue_timeout?))
    }

    /// Returns the parameters of a flow. For the tokens, a label takes precedence over an estimate,
    /// and an estimate over the workload.
    pub(crate) fn request<'a>(
        &'a self,
        flow: &EngineFlow<'a, '_>,
        now: Nanos,
        estimates: Option<&WorkloadTokens>,
    ) -> WorkloadRequest<'a> {
        let label = |key: &Option<Arc<str>>| flow.labels.get(key.as_deref()?);
        let number = |key| label(key).and_then(policy::parse_number);
        let (named, parameters) = self.of(flow);
        let workload = label(&self.0.workload_label_key).unwrap_or(named);
        let estimate = estimates.and_then(|estimates| estimates.get(workload));
        let tokens = number(&self.0.tokens_label_key)
            // Ignore a label that is not a finite number.
            .filter(|tokens| tokens.is_finite())
            .or(estimate.copied())
            .unwrap_or(parameters.tokens);
        let priority = number(&self.0.priority_label_key)
            .filter(|priority| *priority > 0.0)
            .unwrap_or(parameters.priority);
        WorkloadRequest {
            workload,
            tokens,
            priority,
            fairness: label(&self.0.fairness_label_key).unwrap_or_default(),
            deadline: self.deadline(flow.time_left, parameters.queue_timeout.map(nanos), now),
        }
    }

    /// Returns true if the tokens of a flow are an estimate of what it costs, rather than one for
    /// each flow.
    pub(super) fn counts_tokens(&self, request: &WorkloadRequest<'_>) -> bool {
        self.0.tokens_label_key.is_some() || request.tokens != 1.0
    }

    /// Returns the deadline for queueing. It is earlier than the deadline of the flow, to leave
    /// time for the response.
    fn deadline(&self, left: Nanos, queue_timeout: Option<Nanos>, now: Nanos) -> Nanos {
        let own = match left {
            NO_DEADLINE => None,
            left => Some(
                left.saturating_sub(nanos(self.0.decision_deadline_margin))
                    .max(0),
            ),
        };
        let time = match (own, queue_timeout) {
            (Some(own), Some(queue)) => own.min(queue),
            (Some(time), None) | (None, Some(time)) => time,
            (None, None) => return NO_DEADLINE,
        };
        now.saturating_add(time).min(LATEST_DEADLINE)
    }
}

/// The seed that spreads fairness labels over the queues of a workload. It changes every five
/// minutes, so that labels that share a queue do not share it for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FairnessSeed {
    value: u32,
    since: Nanos,
}

impl FairnessSeed {
    pub(crate) fn new(now: Nanos) -> Self {
        Self {
            value: 0,
            since: now,
        }
    }

    pub(crate) fn queue(&mut self, label: &str, now: Nanos) -> FairnessQueue {
        if now.saturating_sub(self.since) > SEED_LIFETIME {
            self.since = now;
            self.value = ahash::RandomState::new().hash_one(now) as u32;
        }
        fairness_queue(label, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fairness_label_goes_to_the_same_queue_as_on_an_agent() {
        let labels = ["a", "b", "ann", "user-1", "ü", "tenant/42"];
        let queues = labels.map(|label| fairness_queue(label, 0));
        assert_eq!(queues, [112, 217, 248, 188, 149, 125].map(Some));
        assert_eq!(fairness_queue("", 0), None);
        assert_ne!(fairness_queue("a", 4_294_967_295), fairness_queue("a", 0));
    }

    #[test]
    fn a_seed_lasts_five_minutes() {
        let mut seed = FairnessSeed::new(0);
        let labels: Vec<String> = (0..64).map(|label| label.to_string()).collect();
        let mut queues =
            |now| -> Vec<_> { labels.iter().map(|label| seed.queue(label, now)).collect() };
        let first = queues(0);
        assert_eq!(queues(SEED_LIFETIME), first);
        assert_ne!(queues(SEED_LIFETIME + 1), first);
    }
}
