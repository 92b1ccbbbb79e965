//! The metrics of one control point.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::{Counter, Histogram, SharedString, counter, histogram};

use crate::flow::{FlowErrorKind, FlowStatus, RejectReason, Verdict};
use crate::metrics::{
    CHECK_DURATION, CHECKS_ABANDONED, FLOWS, FLOWS_ENDED, FLOWS_LATE, FLOWS_SHADOWED,
    FLOWS_UNDECIDED, QUEUE_DURATION,
};

/// The metric handles of one control point. Those that most control points never need are
/// registered on first use.
pub(super) struct ControlPointMetrics {
    name: Arc<str>,
    accepted: OnceLock<Counter>,
    rejected: RejectionCounters,
    unreachable: UnreachableCounters,
    ended: EndCounters,
    abandoned: Counter,
    shadowed: Counter,
    undecided: Counter,
    late: Counter,
    check: OnceLock<Histogram>,
    queue: OnceLock<Histogram>,
}

#[derive(Default)]
struct RejectionCounters {
    rate_limited: OnceLock<Counter>,
    no_tokens: OnceLock<Counter>,
    not_sampled: OnceLock<Counter>,
    no_matching_ramp: OnceLock<Counter>,
    unreachable: OnceLock<Counter>,
    missing_label: OnceLock<Counter>,
    body_too_large: OnceLock<Counter>,
    deadline_exceeded: OnceLock<Counter>,
    unknown: OnceLock<Counter>,
}

#[derive(Default)]
struct UnreachableCounters {
    timeout: OnceLock<Counter>,
    unavailable: OnceLock<Counter>,
    unauthenticated: OnceLock<Counter>,
    invalid_request: OnceLock<Counter>,
    disabled: OnceLock<Counter>,
    shut_down: OnceLock<Counter>,
    other: OnceLock<Counter>,
}

#[derive(Default)]
struct EndCounters {
    ok: OnceLock<Counter>,
    error: OnceLock<Counter>,
    unset: OnceLock<Counter>,
}

impl ControlPointMetrics {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            abandoned: counter!(CHECKS_ABANDONED, "control_point" => Arc::clone(&name)),
            shadowed: counter!(FLOWS_SHADOWED, "control_point" => Arc::clone(&name)),
            undecided: counter!(FLOWS_UNDECIDED, "control_point" => Arc::clone(&name)),
            late: counter!(FLOWS_LATE, "control_point" => Arc::clone(&name)),
            name,
            accepted: OnceLock::new(),
            rejected: RejectionCounters::default(),
            unreachable: UnreachableCounters::default(),
            ended: EndCounters::default(),
            check: OnceLock::new(),
            queue: OnceLock::new(),
        }
    }

    fn control_point(&self) -> SharedString {
        SharedString::from(Arc::clone(&self.name))
    }

    fn count_flow(
        &self,
        counter: &OnceLock<Counter>,
        decision: &'static str,
        reason: &'static str,
    ) {
        let new = || {
            counter!(
                FLOWS,
                "control_point" => self.control_point(),
                "decision" => decision,
                "reason" => reason
            )
        };
        counter.get_or_init(new).increment(1);
    }

    pub(super) fn count_verdict<T>(&self, verdict: &Verdict<T>) {
        match verdict {
            Verdict::Accepted(_) => self.count_flow(&self.accepted, "accepted", "none"),
            Verdict::Rejected(denial, _) => {
                let counters = &self.rejected;
                let counter = match denial.reason {
                    RejectReason::RateLimited => &counters.rate_limited,
                    RejectReason::NoTokens => &counters.no_tokens,
                    RejectReason::NotSampled => &counters.not_sampled,
                    RejectReason::NoMatchingRamp => &counters.no_matching_ramp,
                    RejectReason::Unreachable => &counters.unreachable,
                    RejectReason::MissingLabel => &counters.missing_label,
                    RejectReason::BodyTooLarge => &counters.body_too_large,
                    RejectReason::DeadlineExceeded => &counters.deadline_exceeded,
                    _ => &counters.unknown,
                };
                self.count_flow(counter, "rejected", denial.reason.as_str());
            }
            Verdict::Unreachable(error) => {
                let counters = &self.unreachable;
                let counter = match error.kind() {
                    FlowErrorKind::Timeout => &counters.timeout,
                    FlowErrorKind::Unavailable => &counters.unavailable,
                    FlowErrorKind::Unauthenticated => &counters.unauthenticated,
                    FlowErrorKind::InvalidRequest => &counters.invalid_request,
                    FlowErrorKind::Disabled => &counters.disabled,
                    FlowErrorKind::ShutDown => &counters.shut_down,
                    _ => &counters.other,
                };
                self.count_flow(counter, "unreachable", error.kind().as_str());
            }
        }
    }

    pub(super) fn count_end(&self, status: FlowStatus) {
        let (counter, status) = match status {
            FlowStatus::Ok => (&self.ended.ok, "ok"),
            FlowStatus::Error => (&self.ended.error, "error"),
            FlowStatus::Unset => (&self.ended.unset, "unset"),
        };
        let new = || {
            counter!(
                FLOWS_ENDED,
                "control_point" => self.control_point(),
                "status" => status
            )
        };
        counter.get_or_init(new).increment(1);
    }

    pub(super) fn count_abandoned(&self) {
        self.abandoned.increment(1);
    }

    pub(super) fn count_shadowed(&self) {
        self.shadowed.increment(1);
    }

    pub(super) fn count_late(&self) {
        self.late.increment(1);
    }

    pub(super) fn count_undecided(&self) {
        self.undecided.increment(1);
    }

    pub(super) fn record_check(&self, took: Duration) {
        let histogram = || histogram!(CHECK_DURATION, "control_point" => self.control_point());
        self.check.get_or_init(histogram).record(took);
    }

    pub(super) fn record_queue(&self, took: Duration) {
        let histogram = || histogram!(QUEUE_DURATION, "control_point" => self.control_point());
        self.queue.get_or_init(histogram).record(took);
    }
}
