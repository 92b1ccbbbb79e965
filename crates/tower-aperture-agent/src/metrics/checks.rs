//! Counts checks and ends of flows, independent of spans.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hashbrown::Equivalent;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::registry::Registry;
use serde::Serialize;

use super::bounded_family::{BoundedFamily, MAX_LABEL_BYTES, SeriesClass, SeriesLabels};
use super::schedulers::SchedulerSeries;
use aperture_core::RejectReason;
use aperture_engine::engine::{CheckReport, InForceNames, LimiterDetails};

/// Metrics of checks and ends of flows.
#[derive(Debug)]
pub(super) struct CheckSeries {
    points: ControlPointSeries,
    ends: BoundedFamily<ControlPointLabels, Counter>,
    schedulers: SchedulerSeries,
    /// Accepted and dropped flows, in the order of `KINDS`.
    kinds: [[AtomicU64; 2]; KINDS.len()],
}

/// The decisions of all components of one kind.
#[derive(Debug, Serialize)]
pub(crate) struct KindDecisions {
    pub(crate) kind: &'static str,
    pub(crate) accepted: u64,
    pub(crate) dropped: u64,
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
        let points = ControlPointSeries(BoundedFamily::new(left_out));
        registry.register_collector(Box::new(points.clone()));
        let ends = BoundedFamily::new(left_out);
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
                // A kind of limiter without a series.
                _ => continue,
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
        let make_labels = || ControlPointLabels::new(control_point);
        let point = ControlPointRef(control_point);
        self.ends
            .observe(names, &point, make_labels, Counter::default, count);
    }

    /// Removes the series of policies that are not in force.
    pub(super) fn retain(&self, names: &InForceNames) {
        self.points.0.retain(names);
        self.ends.retain(names);
        self.schedulers.retain(names);
    }

    /// Returns the kinds of components with the numbers of flows they accepted and dropped.
    pub(super) fn kinds(&self) -> Vec<KindDecisions> {
        let counts = KINDS.into_iter().zip(&self.kinds);
        counts
            .map(|(kind, [accepted, dropped])| KindDecisions {
                kind,
                accepted: accepted.load(Relaxed),
                dropped: dropped.load(Relaxed),
            })
            .collect()
    }
}

/// Decisions by control point. Three metrics share one map, so that a check needs one lookup.
#[derive(Clone, Debug)]
struct ControlPointSeries(BoundedFamily<ControlPointLabels, DecisionCounts>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControlPointLabels {
    control_point: String,
}

impl ControlPointLabels {
    fn new(control_point: &str) -> Option<Self> {
        (control_point.len() <= MAX_LABEL_BYTES).then(|| Self {
            control_point: control_point.to_owned(),
        })
    }
}

/// Callers choose control points freely.
impl SeriesLabels for ControlPointLabels {
    fn class(&self, names: &InForceNames) -> SeriesClass {
        match names.selects(&self.control_point) {
            true => SeriesClass::Reserved,
            false => SeriesClass::Shared,
        }
    }
}

/// A borrowed [`ControlPointLabels`].
#[derive(Hash)]
struct ControlPointRef<'a>(&'a str);

impl Equivalent<ControlPointLabels> for ControlPointRef<'_> {
    fn equivalent(&self, key: &ControlPointLabels) -> bool {
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
struct DecisionCounts {
    accepted: AtomicU64,
    /// In the order of `REASONS`.
    rejected: [AtomicU64; REASONS.len()],
}

impl DecisionCounts {
    fn rejected(&self) -> u64 {
        self.rejected.iter().map(|count| count.load(Relaxed)).sum()
    }
}

impl ControlPointSeries {
    fn count(&self, names: &InForceNames, control_point: &str, reason: Option<RejectReason>) {
        let known = |reason| REASONS.iter().position(|(known, _)| *known == reason);
        let counter = |decisions: &DecisionCounts| {
            let counter = match reason.and_then(known) {
                None => &decisions.accepted,
                Some(at) => &decisions.rejected[at],
            };
            counter.fetch_add(1, Relaxed);
        };
        let make_labels = || ControlPointLabels::new(control_point);
        let point = ControlPointRef(control_point);
        self.0
            .observe(names, &point, make_labels, DecisionCounts::default, counter);
    }
}

impl Collector for ControlPointSeries {
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
