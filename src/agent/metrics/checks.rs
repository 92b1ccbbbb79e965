//! What checks and ends of flows say, without any span.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hashbrown::Equivalent;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::registry::Registry;

use super::LONGEST_LABEL;
use super::schedulers::SchedulerSeries;
use super::series::{Labels, Series, Standing};
use crate::engine::{CheckReport, InForceNames, LimiterDetails};
use crate::flow::RejectReason;

#[derive(Debug)]
pub(super) struct CheckSeries {
    points: Points,
    ends: Series<Point, Counter>,
    schedulers: SchedulerSeries,
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

impl CheckSeries {
    pub(super) fn new(registry: &mut Registry, left_out: &Counter) -> Self {
        let points = Points(Series::new(left_out));
        registry.register_collector(Box::new(points.clone()));
        let ends = Series::new(left_out);
        registry.register(
            "flowcontrol_ends",
            "Ends of flows that callers reported",
            ends.clone(),
        );
        Self {
            points,
            ends,
            schedulers: SchedulerSeries::new(registry, left_out),
            kinds: Default::default(),
        }
    }

    pub(super) fn decided(&self, names: &InForceNames, report: &CheckReport) {
        self.points
            .count(names, &report.control_point, report.reject_reason);
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
                self.schedulers.scheduled(names, decision, scheduler);
            }
        }
    }

    pub(super) fn ended(&self, names: &InForceNames, control_point: &str) {
        let count = |counter: &Counter| {
            counter.inc();
        };
        let own = || Point::new(control_point);
        let point = PointOf(control_point);
        self.ends.with(names, &point, own, Counter::default, count);
    }

    /// Forgets what is of policies that are gone.
    pub(super) fn retain(&self, names: &InForceNames) {
        self.points.0.retain(names);
        self.ends.retain(names);
        self.schedulers.retain(names);
    }

    /// Kinds of components, and how many flows they let in and dropped.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let counts = KINDS.into_iter().zip(&self.kinds);
        counts.map(|(kind, [accepted, dropped])| {
            (kind, accepted.load(Relaxed), dropped.load(Relaxed))
        })
    }
}

/// Decisions by control point: one look-up for all three names.
#[derive(Clone, Debug)]
struct Points(Series<Point, Decisions>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Point {
    control_point: String,
}

impl Point {
    fn new(control_point: &str) -> Option<Self> {
        (control_point.len() <= LONGEST_LABEL).then(|| Self {
            control_point: control_point.to_owned(),
        })
    }
}

/// Any caller can make one up.
impl Labels for Point {
    fn standing(&self, names: &InForceNames) -> Standing {
        match names.selects(&self.control_point) {
            true => Standing::Reserved,
            false => Standing::Shared,
        }
    }
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
    fn count(&self, names: &InForceNames, control_point: &str, reason: Option<RejectReason>) {
        let known = |reason| REASONS.iter().position(|(known, _)| *known == reason);
        let counter = |decisions: &Decisions| {
            let counter = match reason.and_then(known) {
                None => &decisions.accepted,
                Some(at) => &decisions.rejected[at],
            };
            counter.fetch_add(1, Relaxed);
        };
        let own = || Point::new(control_point);
        let point = PointOf(control_point);
        self.0.with(names, &point, own, Decisions::default, counter);
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
