//! What components decide about flows, as plain data.

use super::clock::Nanos;
use super::held_slots::HeldSlot;
use super::request_id::RequestId;
use aperture_core::{FlowParams, RejectReason};

/// Components that decide together. The order of the variants is the order of the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DecisionStep {
    /// Samplers that decide about flows in ramp mode only.
    Ramps,
    /// Samplers.
    Samplers,
    /// Rate limiters and concurrency limiters.
    Limiters,
    /// Rate limiters and concurrency limiters whose state is in a shared store.
    SharedLimiters,
    /// Concurrency schedulers.
    Concurrency,
    /// Quota schedulers and load schedulers. The caches are looked up before this step.
    Schedulers,
}

impl DecisionStep {
    fn reject_reason(self) -> RejectReason {
        match self {
            Self::Ramps => RejectReason::NoMatchingRamp,
            Self::Samplers => RejectReason::NotSampled,
            Self::Limiters | Self::SharedLimiters => RejectReason::RateLimited,
            Self::Concurrency | Self::Schedulers => RejectReason::NoTokens,
        }
    }

    /// Returns the denial of this step. A code of 0 stands for the default status of its reason.
    pub(crate) fn denial(self, code: i32, wait: Nanos) -> EngineDenial {
        let reason = self.reject_reason();
        let code = match code {
            0 => i32::from(reason.default_status().as_u16()),
            code => code,
        };
        EngineDenial { reason, code, wait }
    }
}

/// The longest wait that a flow accepts: the reply of a shared store, or a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MayWait {
    /// The reply of a shared store, but no queue: the flow is in shadow mode, the component is in a
    /// dry run, or the check decides at once, which only engines without a store offer.
    ForStore,
    /// The reply of a shared store, and a queue.
    InQueue,
}

impl MayWait {
    /// Returns what a flow with these parameters may wait for.
    #[inline(always)]
    pub(crate) const fn of_params(params: &FlowParams<'_>) -> Self {
        match params.shadow {
            true => Self::ForStore,
            false => Self::InQueue,
        }
    }
}

/// The rejection of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EngineDenial {
    pub(crate) reason: RejectReason,
    /// 0 if no component rejected the flow.
    pub(crate) code: i32,
    /// The longest wait of the step, or 0 if none is known.
    pub(crate) wait: Nanos,
}

impl EngineDenial {
    pub(crate) const NO_RAMP: Self = Self {
        reason: RejectReason::NoMatchingRamp,
        code: 0,
        wait: 0,
    };
}

/// The decision of a component about a flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ComponentDecision {
    pub(crate) dropped: bool,
    /// True if the flow lacks the label that the component limits by, or if a limiter accepts every
    /// flow. No state was read then.
    pub(crate) key_missing: bool,
    pub(crate) wait: Nanos,
    /// Whether the component would reject the flow however long it waited.
    pub(crate) unsatisfiable: bool,
    pub(crate) remaining: f64,
    pub(crate) current: f64,
    pub(crate) consumed: f64,
    pub(crate) request_id: Option<RequestId>,
    /// False if the component let the flow through without using the state of a key.
    pub(crate) evaluated: bool,
    /// True if a component whose state is in a shared store decided without the store.
    pub(crate) without_store: bool,
    /// How long the flow waited in a queue.
    pub(crate) queued: Nanos,
    /// How the queue changed the order of service; `None` without a queue and for a rejected flow.
    pub(crate) overtaken: Option<OrderShift>,
}

impl ComponentDecision {
    /// The decision of a component that lets the flow through without using any state: the flow has
    /// no key, or the component has no limit.
    pub(crate) const fn not_evaluated(tokens: f64) -> Self {
        Self {
            dropped: false,
            key_missing: true,
            wait: 0,
            unsatisfiable: false,
            remaining: 0.0,
            current: 0.0,
            consumed: tokens,
            request_id: None,
            evaluated: false,
            without_store: false,
            queued: 0,
            overtaken: None,
        }
    }

    /// Returns the wait to report for a rejected flow: none if it would be rejected even after it.
    #[inline(always)]
    pub(crate) const fn reported_wait(&self) -> Nanos {
        match self.unsatisfiable {
            true => 0,
            false => self.wait,
        }
    }

    /// A rejection without a look at the state.
    pub(crate) const REJECTED: Self = Self {
        dropped: true,
        key_missing: false,
        wait: 0,
        unsatisfiable: false,
        remaining: 0.0,
        current: 0.0,
        consumed: 0.0,
        request_id: None,
        evaluated: true,
        without_store: false,
        queued: 0,
        overtaken: None,
    };

    /// An accepted flow that took no tokens.
    pub(crate) const ACCEPTED: Self = Self {
        dropped: false,
        key_missing: false,
        wait: 0,
        unsatisfiable: false,
        remaining: 0.0,
        current: 0.0,
        consumed: 0.0,
        request_id: None,
        evaluated: false,
        without_store: false,
        queued: 0,
        overtaken: None,
    };
}

/// How far a queue moved a flow compared to the order of arrival, in tokens: positive for a flow that
/// overtook others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OrderShift {
    /// Among all flows of the queue.
    pub(crate) overtook: f64,
    /// Among the flows of its workload that waited behind another one with their fairness label.
    pub(crate) overtook_in_workload: Option<f64>,
}

/// A decision, with the slot that the flow holds by it.
#[derive(Debug)]
pub(crate) struct DecisionWithSlot {
    pub(crate) decision: ComponentDecision,
    pub(crate) slot: Option<HeldSlot>,
}

impl From<ComponentDecision> for DecisionWithSlot {
    #[inline(always)]
    fn from(decision: ComponentDecision) -> Self {
        Self {
            decision,
            slot: None,
        }
    }
}

/// The parts of a decision that a verdict depends on, with the slot. Most callers want no more, and
/// the other parts cost more to pass on than to compute.
#[derive(Debug)]
pub(crate) struct BriefDecision {
    pub(crate) dropped: bool,
    pub(crate) key_missing: bool,
    /// As [`ComponentDecision::reported_wait`] returns it.
    pub(crate) wait: Nanos,
    pub(crate) slot: Option<HeldSlot>,
}

impl From<DecisionWithSlot> for BriefDecision {
    #[inline(always)]
    fn from(decided: DecisionWithSlot) -> Self {
        let DecisionWithSlot { decision, slot } = decided;
        Self {
            dropped: decision.dropped,
            key_missing: decision.key_missing,
            wait: decision.reported_wait(),
            slot,
        }
    }
}
