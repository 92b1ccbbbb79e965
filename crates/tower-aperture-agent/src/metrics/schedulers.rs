//! Metrics of schedulers: tokens, waiting times, and how priorities and fairness changed the order.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::bounded_family::BoundedFamily;
use super::labels::{ComponentLabels, WorkloadLabels, WorkloadRef};
use aperture_engine::engine::{InForceNames, LimiterDecision, NamedComponent, SchedulerDetails};

type TokenCounter = Counter<f64, AtomicU64>;

/// Metrics of schedulers.
#[derive(Debug)]
pub(super) struct SchedulerSeries {
    incoming: BoundedFamily<ComponentLabels, TokenCounter>,
    accepted: BoundedFamily<ComponentLabels, TokenCounter>,
    rejected: BoundedFamily<ComponentLabels, TokenCounter>,
    queued: BoundedFamily<WorkloadLabels, Histogram>,
    workload: OrderSeries,
    fairness: OrderSeries,
}

impl SchedulerSeries {
    pub(super) fn new(registry: &mut Registry, left_out: &Counter) -> Self {
        let metrics = Self {
            incoming: BoundedFamily::new(left_out),
            accepted: BoundedFamily::new(left_out),
            rejected: BoundedFamily::new(left_out),
            queued: BoundedFamily::new(left_out),
            workload: OrderSeries::new(left_out),
            fairness: OrderSeries::new(left_out),
        };
        registry.register(
            "incoming_tokens",
            "Tokens that flows requested from a scheduler",
            metrics.incoming.clone(),
        );
        registry.register(
            "accepted_tokens",
            "Tokens that a scheduler granted",
            metrics.accepted.clone(),
        );
        registry.register(
            "rejected_tokens",
            "Tokens of flows that a scheduler rejected",
            metrics.rejected.clone(),
        );
        registry.register(
            "request_in_queue_duration_ms",
            "Time that flows waited in the queue of a scheduler",
            metrics.queued.clone(),
        );
        metrics
            .workload
            .register(registry, "workload", "by all flows of the scheduler");
        metrics.fairness.register(
            registry,
            "fairness",
            "by flows of its workload, among those that waited behind their own fairness label",
        );
        metrics
    }

    /// Records the decision of a scheduler.
    pub(super) fn scheduled(
        &self,
        names: &InForceNames,
        decision: &LimiterDecision,
        scheduler: &SchedulerDetails,
    ) {
        // A scheduler in pass-through has no queue.
        if scheduler.tokens.is_none() {
            return;
        }
        let LimiterDecision {
            policy_name,
            policy_hash,
            component_id,
            ..
        } = decision;
        // The policy may have been removed while the flow waited.
        let Some(component) = names.component(policy_name, component_id, policy_hash) else {
            return self.incoming.count_left_out();
        };
        self.tokens(names, component, decision.dropped, scheduler.requested);
        let workload = WorkloadRef::new(component, &scheduler.workload_index);
        let make_metric = || Histogram::new([]);
        let make_labels = || Some(workload.to_labels());
        self.queued
            .observe(names, &workload, make_labels, make_metric, |queued| {
                queued.observe(scheduler.queued.as_secs_f64() * 1000.0);
            });
        if let Some(order) = scheduler.order {
            self.workload.observe(names, workload, order.overtook);
            if let Some(overtook) = order.overtook_in_workload {
                self.fairness.observe(names, workload, overtook);
            }
        }
    }

    /// Removes the series of policies that are not in force.
    pub(super) fn retain(&self, names: &InForceNames) {
        for series in [&self.incoming, &self.accepted, &self.rejected] {
            series.retain(names);
        }
        self.queued.retain(names);
        for order in [&self.workload, &self.fairness] {
            order.preempted.retain(names);
            order.delayed.retain(names);
            order.on_time.retain(names);
        }
    }

    fn tokens(
        &self,
        names: &InForceNames,
        component: NamedComponent<'_>,
        dropped: bool,
        requested: f64,
    ) {
        let labels = ComponentLabels::of(component);
        // Counters must not decrease.
        let requested = requested.max(0.0);
        let (accepted, rejected) = if dropped {
            (0.0, requested)
        } else {
            (requested, 0.0)
        };
        for (series, tokens) in [
            (&self.incoming, requested),
            (&self.accepted, accepted),
            (&self.rejected, rejected),
        ] {
            let add = |counter: &TokenCounter| {
                counter.inc_by(tokens);
            };
            let make_labels = || Some(labels.clone());
            series.observe(names, &labels, make_labels, TokenCounter::default, add);
        }
    }
}

/// Series for the distance between the order of service and the order of arrival, in tokens.
#[derive(Debug)]
struct OrderSeries {
    preempted: BoundedFamily<WorkloadLabels, Histogram>,
    delayed: BoundedFamily<WorkloadLabels, Histogram>,
    on_time: BoundedFamily<WorkloadLabels, Counter>,
}

impl OrderSeries {
    fn new(left_out: &Counter) -> Self {
        Self {
            preempted: BoundedFamily::new(left_out),
            delayed: BoundedFamily::new(left_out),
            on_time: BoundedFamily::new(left_out),
        }
    }

    fn register(&self, registry: &mut Registry, kind: &str, by: &str) {
        registry.register(
            format!("{kind}_preempted_tokens"),
            "Tokens of earlier flows that a queued flow overtook",
            self.preempted.clone(),
        );
        registry.register(
            format!("{kind}_delayed_tokens"),
            format!("Tokens by which a queued flow was overtaken, {by}"),
            self.delayed.clone(),
        );
        registry.register(
            format!("{kind}_on_time"),
            format!("Queued flows that were not overtaken and overtook none, {by}"),
            self.on_time.clone(),
        );
    }

    /// Creates all three series at once, so that expressions can combine them.
    fn observe(&self, names: &InForceNames, workload: WorkloadRef<'_>, overtook: f64) {
        let make_labels = || Some(workload.to_labels());
        let make_metric = || Histogram::new([]);
        let observe = |series: &BoundedFamily<WorkloadLabels, Histogram>, tokens: f64| {
            series.observe(names, &workload, make_labels, make_metric, |series| {
                if tokens > 0.0 {
                    series.observe(tokens);
                }
            });
        };
        observe(&self.preempted, overtook);
        observe(&self.delayed, -overtook);
        let on_time = u64::from(overtook == 0.0);
        self.on_time
            .observe(names, &workload, make_labels, Counter::default, |counter| {
                counter.inc_by(on_time);
            });
    }
}
