//! What checks say, without any span.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hashbrown::Equivalent;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::LONGEST_LABEL;
use super::series::Series;
use crate::engine::{CheckReport, LimiterDecision, LimiterDetails, SchedulerDetails};
use crate::flow::RejectReason;

type Tokens = Counter<f64, AtomicU64>;

#[derive(Debug)]
pub(super) struct CheckSeries {
    points: Points,
    incoming: Series<Scheduler, Tokens>,
    accepted: Series<Scheduler, Tokens>,
    rejected: Series<Scheduler, Tokens>,
    queued: Series<Queue, Histogram>,
    /// In the order of `KINDS`: let in, and dropped.
    kinds: [[AtomicU64; 2]; KINDS.len()],
}

const KINDS: [&str; 6] = [
    "rate_limiter",
    "concurrency_limiter",
    "sampler",
    "quota_scheduler",
    "concurrency_scheduler",
    "load_scheduler",
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Scheduler {
    policy_name: Arc<str>,
    policy_hash: Arc<str>,
    component_id: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    policy_name: Arc<str>,
    policy_hash: Arc<str>,
    component_id: Arc<str>,
    workload_index: String,
}

/// Like [`Queue`], of a decision.
struct QueueOf<'a>(&'a LimiterDecision, &'a str);

impl Hash for QueueOf<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.policy_name.hash(state);
        self.0.policy_hash.hash(state);
        self.0.component_id.hash(state);
        self.1.hash(state);
    }
}

impl Equivalent<Queue> for QueueOf<'_> {
    fn equivalent(&self, key: &Queue) -> bool {
        self.0.policy_name == key.policy_name
            && self.0.policy_hash == key.policy_hash
            && self.0.component_id == key.component_id
            && self.1 == key.workload_index
    }
}

impl CheckSeries {
    pub(super) fn new(registry: &mut Registry, left_out: &Counter) -> Self {
        let own = Self {
            points: Points(Series::new(left_out)),
            incoming: Series::new(left_out),
            accepted: Series::new(left_out),
            rejected: Series::new(left_out),
            queued: Series::new(left_out),
            kinds: Default::default(),
        };
        registry.register_collector(Box::new(own.points.clone()));
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
        own
    }

    pub(super) fn decided(&self, report: &CheckReport) {
        self.points
            .count(&report.control_point, report.reject_reason);
        for decision in &report.limiter_decisions {
            let (kind, scheduler) = match &decision.details {
                LimiterDetails::RateLimiter { .. } => (0, None),
                LimiterDetails::ConcurrencyLimiter { .. } => (1, None),
                LimiterDetails::Sampler { .. } => (2, None),
                LimiterDetails::QuotaScheduler { scheduler, .. } => (3, Some(scheduler)),
                LimiterDetails::ConcurrencyScheduler { scheduler, .. } => (4, Some(scheduler)),
                LimiterDetails::LoadScheduler { scheduler } => (5, Some(scheduler)),
            };
            self.kinds[kind][usize::from(decision.dropped)].fetch_add(1, Relaxed);
            if let Some(scheduler) = scheduler {
                self.scheduled(decision, scheduler);
            }
        }
    }

    /// Kinds of components, and how many flows they let in and dropped.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let counts = KINDS.into_iter().zip(&self.kinds);
        counts.map(|(kind, [accepted, dropped])| {
            (kind, accepted.load(Relaxed), dropped.load(Relaxed))
        })
    }

    fn scheduled(&self, decision: &LimiterDecision, scheduler: &SchedulerDetails) {
        // Where it was let through without a look there was no queue.
        if scheduler.tokens.is_none() {
            return;
        }
        let labels = Scheduler {
            policy_name: Arc::clone(&decision.policy_name),
            policy_hash: Arc::clone(&decision.policy_hash),
            component_id: Arc::clone(&decision.component_id),
        };
        // Counters only grow.
        let asked = scheduler.requested.max(0.0);
        let (accepted, rejected) = if decision.dropped {
            (0.0, asked)
        } else {
            (asked, 0.0)
        };
        for (series, tokens) in [
            (&self.incoming, asked),
            (&self.accepted, accepted),
            (&self.rejected, rejected),
        ] {
            let add = |counter: &Tokens| {
                counter.inc_by(tokens);
            };
            series.with(&labels, || Some(labels.clone()), Tokens::default, add);
        }
        let workload = &*scheduler.workload_index;
        self.queued.with(
            &QueueOf(decision, workload),
            || {
                (workload.len() <= LONGEST_LABEL).then(|| Queue {
                    policy_name: Arc::clone(&decision.policy_name),
                    policy_hash: Arc::clone(&decision.policy_hash),
                    component_id: Arc::clone(&decision.component_id),
                    workload_index: workload.to_owned(),
                })
            },
            || Histogram::new([]),
            |queued| queued.observe(scheduler.queued.as_secs_f64() * 1000.0),
        );
    }
}

/// Decisions by control point: one look-up for all three names.
#[derive(Clone, Debug)]
struct Points(Series<Point, Decisions>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Point {
    control_point: String,
}

/// Like [`Point`], borrowed.
#[derive(Hash)]
struct PointOf<'a>(&'a str);

impl Equivalent<Point> for PointOf<'_> {
    fn equivalent(&self, key: &Point) -> bool {
        self.0 == key.control_point
    }
}

const REASONS: [(RejectReason, &str); 4] = [
    (RejectReason::RateLimited, "REJECT_REASON_RATE_LIMITED"),
    (RejectReason::NoTokens, "REJECT_REASON_NO_TOKENS"),
    (RejectReason::NotSampled, "REJECT_REASON_NOT_SAMPLED"),
    (
        RejectReason::NoMatchingRamp,
        "REJECT_REASON_NO_MATCHING_RAMP",
    ),
];

#[derive(Debug, Default)]
struct Decisions {
    accepted: AtomicU64,
    /// In the order of `REASONS`.
    rejected: [AtomicU64; REASONS.len()],
}

impl Decisions {
    fn rejected(&self) -> u64 {
        self.rejected.iter().map(|count| count.load(Relaxed)).sum()
    }
}

impl Points {
    fn count(&self, control_point: &str, reason: Option<RejectReason>) {
        let known = |reason| REASONS.iter().position(|(known, _)| *known == reason);
        let counter = |decisions: &Decisions| {
            let counter = match reason.and_then(known) {
                None => &decisions.accepted,
                Some(at) => &decisions.rejected[at],
            };
            counter.fetch_add(1, Relaxed);
        };
        let own = || {
            (control_point.len() <= LONGEST_LABEL).then(|| Point {
                control_point: control_point.to_owned(),
            })
        };
        self.0
            .with(&PointOf(control_point), own, Decisions::default, counter);
    }
}

impl Collector for Points {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut requests = encoder.encode_descriptor(
            "flowcontrol_requests",
            "Checks",
            None,
            MetricType::Counter,
        )?;
        self.0.each(|point, decisions| {
            let all = decisions.accepted.load(Relaxed) + decisions.rejected();
            ConstCounter::new(all).encode(requests.encode_family(point)?)
        })?;
        let mut decided = encoder.encode_descriptor(
            "flowcontrol_decisions",
            "Checks by decision",
            None,
            MetricType::Counter,
        )?;
        self.0.each(|point, decisions| {
            for (decision_type, count) in [
                ("DECISION_TYPE_ACCEPTED", decisions.accepted.load(Relaxed)),
                ("DECISION_TYPE_REJECTED", decisions.rejected()),
            ] {
                let labels = [
                    ("control_point", &*point.control_point),
                    ("decision_type", decision_type),
                ];
                ConstCounter::new(count).encode(decided.encode_family(&labels)?)?;
            }
            Ok(())
        })?;
        let mut reasons = encoder.encode_descriptor(
            "flowcontrol_reject_reasons",
            "Rejected checks by reason",
            None,
            MetricType::Counter,
        )?;
        self.0.each(|point, decisions| {
            for ((_, reject_reason), count) in REASONS.iter().zip(&decisions.rejected) {
                let labels = [
                    ("control_point", &*point.control_point),
                    ("reject_reason", *reject_reason),
                ];
                let count = count.load(Relaxed);
                if count > 0 {
                    ConstCounter::new(count).encode(reasons.encode_family(&labels)?)?;
                }
            }
            Ok(())
        })
    }
}
