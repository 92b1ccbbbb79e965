use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::{Counter, Histogram, SharedString, counter, histogram};

use crate::flow::{FlowErrorKind, FlowStatus, RejectReason, Verdict};
use crate::metrics::{
    CHECK_DURATION, CHECKS_ABANDONED, FLOWS, FLOWS_ENDED, FLOWS_LATE, FLOWS_SHADOWED,
    FLOWS_UNDECIDED, QUEUE_DURATION,
};

/// The handles of one control point. Those for what most control points never see are asked for
/// when they are first needed.
pub(super) struct Series {
    name: Arc<str>,
    accepted: OnceLock<Counter>,
    rejected: Rejected,
    unreachable: Unreachable,
    ended: Ended,
    abandoned: Counter,
    shadowed: Counter,
    undecided: Counter,
    late: Counter,
    check: OnceLock<Histogram>,
    queue: OnceLock<Histogram>,
}

#[derive(Default)]
struct Rejected {
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
struct Unreachable {
    timeout: OnceLock<Counter>,
    unavailable: OnceLock<Counter>,
    unauthenticated: OnceLock<Counter>,
    invalid_request: OnceLock<Counter>,
    disabled: OnceLock<Counter>,
    shut_down: OnceLock<Counter>,
    other: OnceLock<Counter>,
}

#[derive(Default)]
struct Ended {
    ok: OnceLock<Counter>,
    error: OnceLock<Counter>,
    unset: OnceLock<Counter>,
}

impl Series {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            abandoned: counter!(CHECKS_ABANDONED, "control_point" => Arc::clone(&name)),
            shadowed: counter!(FLOWS_SHADOWED, "control_point" => Arc::clone(&name)),
            undecided: counter!(FLOWS_UNDECIDED, "control_point" => Arc::clone(&name)),
            late: counter!(FLOWS_LATE, "control_point" => Arc::clone(&name)),
            name,
            accepted: OnceLock::new(),
            rejected: Rejected::default(),
            unreachable: Unreachable::default(),
            ended: Ended::default(),
            check: OnceLock::new(),
            queue: OnceLock::new(),
        }
    }

    fn control_point(&self) -> SharedString {
        SharedString::from(Arc::clone(&self.name))
    }

    fn flow(&self, slot: &OnceLock<Counter>, decision: &'static str, reason: &'static str) {
        let counter = || {
            counter!(
                FLOWS,
                "control_point" => self.control_point(),
                "decision" => decision,
                "reason" => reason
            )
        };
        slot.get_or_init(counter).increment(1);
    }

    pub(super) fn decided<T>(&self, verdict: &Verdict<T>) {
        match verdict {
            Verdict::Accepted(_) => self.flow(&self.accepted, "accepted", "none"),
            Verdict::Rejected(denial, _) => {
                let slots = &self.rejected;
                let slot = match denial.reason {
                    RejectReason::RateLimited => &slots.rate_limited,
                    RejectReason::NoTokens => &slots.no_tokens,
                    RejectReason::NotSampled => &slots.not_sampled,
                    RejectReason::NoMatchingRamp => &slots.no_matching_ramp,
                    RejectReason::Unreachable => &slots.unreachable,
                    RejectReason::MissingLabel => &slots.missing_label,
                    RejectReason::BodyTooLarge => &slots.body_too_large,
                    RejectReason::DeadlineExceeded => &slots.deadline_exceeded,
                    RejectReason::Unknown => &slots.unknown,
                };
                self.flow(slot, "rejected", denial.reason.as_str());
            }
            Verdict::Unreachable(error) => {
                let slots = &self.unreachable;
                let slot = match error.kind() {
                    FlowErrorKind::Timeout => &slots.timeout,
                    FlowErrorKind::Unavailable => &slots.unavailable,
                    FlowErrorKind::Unauthenticated => &slots.unauthenticated,
                    FlowErrorKind::InvalidRequest => &slots.invalid_request,
                    FlowErrorKind::Disabled => &slots.disabled,
                    FlowErrorKind::ShutDown => &slots.shut_down,
                    FlowErrorKind::Other => &slots.other,
                };
                self.flow(slot, "unreachable", error.kind().as_str());
            }
        }
    }

    pub(super) fn ended(&self, status: FlowStatus) {
        let (slot, word) = match status {
            FlowStatus::Ok => (&self.ended.ok, "ok"),
            FlowStatus::Error => (&self.ended.error, "error"),
            FlowStatus::Unset => (&self.ended.unset, "unset"),
        };
        let counter = || {
            counter!(
                FLOWS_ENDED,
                "control_point" => self.control_point(),
                "status" => word
            )
        };
        slot.get_or_init(counter).increment(1);
    }

    pub(super) fn abandoned(&self) {
        self.abandoned.increment(1);
    }

    pub(super) fn shadowed(&self) {
        self.shadowed.increment(1);
    }

    pub(super) fn late(&self) {
        self.late.increment(1);
    }

    pub(super) fn undecided(&self) {
        self.undecided.increment(1);
    }

    pub(super) fn checked(&self, took: Duration) {
        let histogram = || histogram!(CHECK_DURATION, "control_point" => self.control_point());
        self.check.get_or_init(histogram).record(took);
    }

    pub(super) fn queued(&self, took: Duration) {
        let histogram = || histogram!(QUEUE_DURATION, "control_point" => self.control_point());
        self.queue.get_or_init(histogram).record(took);
    }
}
