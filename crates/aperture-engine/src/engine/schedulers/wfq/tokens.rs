//! The tokens of requests as they count in sums, from which the change of their order is computed.

use super::arrival::MAX_COST;

/// Sums of queued and of admitted tokens. A request compares those at its entry with those at its
/// admission, to compute by how much priorities moved it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TokenTotals {
    queued: f64,
    admitted: f64,
}

impl TokenTotals {
    /// Counts a request that enters and returns the totals before it.
    pub(super) fn enter(&mut self, tokens: f64) -> Self {
        let before = *self;
        self.queued += tokens;
        before
    }

    /// Returns how many tokens a request that entered at `then` has overtaken by now: those queued
    /// before it, minus those admitted since.
    pub(super) fn overtaken(&self, then: &Self) -> f64 {
        then.queued - (self.admitted - then.admitted)
    }

    pub(super) fn leave(&mut self, tokens: f64, admitted: bool) {
        self.queued -= tokens;
        if admitted {
            self.admitted += tokens;
        }
    }
}

/// The difference between the order of service and the order of arrival, in tokens: positive for a
/// request that overtook others, negative for one that others overtook.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OvertakenTokens {
    /// Among all requests of the scheduler.
    pub(crate) workload: f64,
    /// Among the requests of its workload that waited in the queues of their flows; `None` for a
    /// request that did not wait in one.
    pub(crate) fairness: Option<f64>,
}

/// Returns the tokens as they count in sums: zero for negative ones, and at most [`MAX_COST`].
pub(super) fn countable_tokens(tokens: f64) -> f64 {
    match tokens.is_nan() {
        true => 0.0,
        false => tokens.clamp(0.0, MAX_COST),
    }
}
