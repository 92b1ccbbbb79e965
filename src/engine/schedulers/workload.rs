//! What a flow brings to a scheduler: workload, tokens, priority, fairness, patience.

use std::sync::Arc;
use std::time::Duration;

use super::wfq::{Fairness, queue_of};
use crate::engine::clock::{Nanos, nanos};
use crate::engine::control::WorkloadTokens;
use crate::engine::stages::{Flow, LATEST_DEADLINE, NO_DEADLINE};
use crate::policy;

/// The name of the workload of flows that match no other one.
const DEFAULT_WORKLOAD: &str = "default";
/// How long a fairness seed lasts.
const SEED_LASTS: Nanos = 300_000_000_000;

/// A flow as a scheduler sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) workload: &'a str,
    pub(crate) tokens: f64,
    pub(crate) priority: f64,
    /// Empty without fairness label.
    pub(crate) fairness: &'a str,
    /// When it has to be decided; [`NO_DEADLINE`] is never.
    pub(crate) deadline: Nanos,
}

/// The `scheduler` of a component.
#[derive(Debug)]
pub(crate) struct Workloads(policy::Scheduler);

impl Workloads {
    pub(crate) fn new(spec: &policy::Scheduler) -> Self {
        Self(spec.clone())
    }

    pub(crate) fn denied_code(&self) -> i32 {
        self.0.denied_response_status_code
    }

    /// The first workload that a flow matches, with its name.
    fn of(&self, flow: &Flow<'_, '_>) -> (&str, &policy::WorkloadParameters) {
        let mut workloads = self.0.workloads.iter();
        match workloads.find(|workload| workload.matcher.matches(flow.labels)) {
            Some(workload) => (&*workload.label, &workload.parameters),
            None => (DEFAULT_WORKLOAD, &self.0.default_workload),
        }
    }

    /// Returns the policy's own name of a workload; `None` for one that is made of a label's value.
    #[cfg(feature = "server")]
    pub(crate) fn named(&self, workload: &str) -> Option<&str> {
        let names = self.0.workloads.iter().map(|workload| &*workload.label);
        names
            .chain([DEFAULT_WORKLOAD])
            .find(|name| *name == workload)
    }

    /// The longest time that a workload may queue, 0 where none has one.
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

    /// The name of a flow's workload and how long it may queue, where the policy says that.
    pub(crate) fn queue_timeout(&self, flow: &Flow<'_, '_>) -> Option<(&str, Duration)> {
        let (name, parameters) = self.of(flow);
        Some((name, parameters.queue_timeout?))
    }

    /// The last one that says something about the tokens wins: the workload, what was measured,
    /// the label.
    pub(crate) fn request<'a>(
        &'a self,
        flow: &Flow<'a, '_>,
        now: Nanos,
        estimates: Option<&WorkloadTokens>,
    ) -> Request<'a> {
        let label = |key: &Option<Arc<str>>| flow.labels.get(key.as_deref()?);
        let number = |key| label(key).and_then(policy::parse_number);
        let (named, parameters) = self.of(flow);
        let workload = label(&self.0.workload_label_key).unwrap_or(named);
        let estimate = estimates.and_then(|estimates| estimates.get(workload));
        let tokens = number(&self.0.tokens_label_key)
            // Not a number, or not finite: as if it were not there.
            .filter(|tokens| tokens.is_finite())
            .or(estimate.copied())
            .unwrap_or(parameters.tokens);
        let priority = number(&self.0.priority_label_key)
            .filter(|priority| *priority > 0.0)
            .unwrap_or(parameters.priority);
        Request {
            workload,
            tokens,
            priority,
            fairness: label(&self.0.fairness_label_key).unwrap_or_default(),
            deadline: self.deadline(flow.time_left, parameters.queue_timeout.map(nanos), now),
        }
    }

    /// Earlier than the flow's own, so that there is time to tell the answer.
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

/// Spreads fairness labels over the queues of a workload, another way every five minutes, so that
/// those who share a queue do not do so for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed {
    value: u32,
    since: Nanos,
}

impl Seed {
    pub(crate) fn new(now: Nanos) -> Self {
        Self {
            value: 0,
            since: now,
        }
    }

    pub(crate) fn queue(&mut self, label: &str, now: Nanos) -> Fairness {
        if now.saturating_sub(self.since) > SEED_LASTS {
            self.since = now;
            self.value = ahash::RandomState::new().hash_one(now) as u32;
        }
        queue_of(label, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fairness_label_goes_to_the_queue_the_agent_has_for_it() {
        let labels = ["a", "b", "ann", "user-1", "ü", "tenant/42"];
        let queues = labels.map(|label| queue_of(label, 0));
        assert_eq!(queues, [112, 217, 248, 188, 149, 125].map(Some));
        assert_eq!(queue_of("", 0), None);
        assert_ne!(queue_of("a", 4_294_967_295), queue_of("a", 0));
    }

    #[test]
    fn a_seed_lasts_five_minutes() {
        let mut seed = Seed::new(0);
        let labels: Vec<String> = (0..64).map(|label| label.to_string()).collect();
        let mut queues =
            |now| -> Vec<_> { labels.iter().map(|label| seed.queue(label, now)).collect() };
        let first = queues(0);
        assert_eq!(queues(SEED_LASTS), first);
        assert_ne!(queues(SEED_LASTS + 1), first);
    }
}
