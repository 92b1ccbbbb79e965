//! What schedulers did: tokens, queues, and what priorities and fairness did to the order.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::labels::{Component, Workload, WorkloadOf};
use super::series::Series;
use crate::engine::{InForceNames, LimiterDecision, NamedComponent, SchedulerDetails};

type Tokens = Counter<f64, AtomicU64>;

#[derive(Debug)]
pub(super) struct SchedulerSeries {
    incoming: Series<Component, Tokens>,
    accepted: Series<Component, Tokens>,
    rejected: Series<Component, Tokens>,
    queued: Series<Workload, Histogram>,
    workload: OrderSeries,
    fairness: OrderSeries,
}

impl SchedulerSeries {
    pub(super) fn new(registry: &mut Registry, left_out: &Counter) -> Self {
        let own = Self {
            incoming: Series::new(left_out),
            accepted: Series::new(left_out),
            rejected: Series::new(left_out),
            queued: Series::new(left_out),
            workload: OrderSeries::new(left_out),
            fairness: OrderSeries::new(left_out),
        };
        registry.register(
            "incoming_tokens",
            "Tokens that flows asked a scheduler for",
            own.incoming.clone(),
        );
        registry.register(
            "accepted_tokens",
            "Tokens that a scheduler granted",
            own.accepted.clone(),
        );
        registry.register(
            "rejected_tokens",
            "Tokens that a scheduler refused",
            own.rejected.clone(),
        );
        registry.register(
            "request_in_queue_duration_ms",
            "How long flows waited in the queue of a scheduler",
            own.queued.clone(),
        );
        own.workload
            .register(registry, "workload", "by all flows of the scheduler");
        own.fairness.register(
            registry,
            "fairness",
            "by flows of its workload, among those that waited behind their own fairness label",
        );
        own
    }

    pub(super) fn scheduled(
        &self,
        names: &InForceNames,
        decision: &LimiterDecision,
        scheduler: &SchedulerDetails,
    ) {
        // Where it was let through without a look there was no queue.
        if scheduler.tokens.is_none() {
            return;
        }
        let LimiterDecision {
            policy_name,
            policy_hash,
            component_id,
            ..
        } = decision;
        // A flow may have waited until its policy was gone.
        let Some(component) = names.component(policy_name, component_id, policy_hash) else {
            return self.incoming.leave_out();
        };
        self.tokens(names, component, decision.dropped, scheduler.requested);
        let workload = WorkloadOf::new(component, &scheduler.workload_index);
        let make = || Histogram::new([]);
        let own = || Some(workload.to_labels());
        self.queued.with(names, &workload, own, make, |queued| {
            queued.observe(scheduler.queued.as_secs_f64() * 1000.0);
        });
        if let Some(order) = scheduler.order {
            self.workload.observe(names, workload, order.overtook);
            if let Some(overtook) = order.overtook_in_workload {
                self.fairness.observe(names, workload, overtook);
            }
        }
    }

    /// Forgets what is of policies that are gone.
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
        asked: f64,
    ) {
        let labels = Component::of(component);
        // Counters only grow.
        let asked = asked.max(0.0);
        let (accepted, rejected) = if dropped { (0.0, asked) } else { (asked, 0.0) };
        for (series, tokens) in [
            (&self.incoming, asked),
            (&self.accepted, accepted),
            (&self.rejected, rejected),
        ] {
            let add = |counter: &Tokens| {
                counter.inc_by(tokens);
            };
            let own = || Some(labels.clone());
            series.with(names, &labels, own, Tokens::default, add);
        }
    }
}

/// By how many tokens flows were served before or after their turn.
#[derive(Debug)]
struct OrderSeries {
    preempted: Series<Workload, Histogram>,
    delayed: Series<Workload, Histogram>,
    on_time: Series<Workload, Counter>,
}

impl OrderSeries {
    fn new(left_out: &Counter) -> Self {
        Self {
            preempted: Series::new(left_out),
            delayed: Series::new(left_out),
            on_time: Series::new(left_out),
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

    /// Makes all three series at once, so that expressions can subtract one from another.
    fn observe(&self, names: &InForceNames, workload: WorkloadOf<'_>, overtook: f64) {
        let own = || Some(workload.to_labels());
        let make = || Histogram::new([]);
        let observe = |series: &Series<Workload, Histogram>, tokens: f64| {
            series.with(names, &workload, own, make, |series| {
                if tokens > 0.0 {
                    series.observe(tokens);
                }
            });
        };
        observe(&self.preempted, overtook);
        observe(&self.delayed, -overtook);
        let on_time = u64::from(overtook == 0.0);
        self.on_time
            .with(names, &workload, own, Counter::default, |counter| {
                counter.inc_by(on_time);
            });
    }
}
