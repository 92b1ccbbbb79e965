//! Decisions of schedulers without a queue.

use super::ScheduleResult;
use crate::engine::decision::{ComponentDecision, DecisionWithSlot};

/// Accepts a flow without a queue, because the scheduler does not limit it, or because the flow
/// lacks its label.
pub(super) fn accept_unlimited(key_missing: bool) -> ScheduleResult {
    let decision = ComponentDecision {
        key_missing,
        ..ComponentDecision::not_evaluated(0.0)
    };
    ScheduleResult::Decided(DecisionWithSlot::from(decision))
}

/// Accepts a flow without a queue, because it needs no tokens.
pub(super) fn accept_without_tokens() -> ScheduleResult {
    let decision = ComponentDecision {
        key_missing: false,
        evaluated: true,
        ..ComponentDecision::not_evaluated(0.0)
    };
    ScheduleResult::Decided(DecisionWithSlot::from(decision))
}
