//! The last settlement of a flow, which counts when the flow ends.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::flow::{SettleError, Ticket};

/// The tokens that a running flow was settled for last.
///
/// The bits of a number, or one of two values that are no valid tokens, because they are NaN.
#[derive(Debug)]
pub(crate) struct LastSettlement(AtomicU64);

const NOT_SETTLED: u64 = u64::MAX;
const ENDED: u64 = u64::MAX - 1;

impl LastSettlement {
    /// Returns the state of a flow that was not settled yet.
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(NOT_SETTLED))
    }

    /// Records the tokens of a flow. A later call replaces an earlier one.
    ///
    /// Returns an error if the tokens are invalid, or if the flow has ended.
    pub(crate) fn set(&self, actual_tokens: f64) -> Result<(), SettleError> {
        SettleError::check(actual_tokens)?;
        // Negative zero and zero are the same tokens.
        let bits = actual_tokens.abs().to_bits();
        let set = |known: u64| (known != ENDED).then_some(bits);
        match { &self.0 }.fetch_update(Ordering::AcqRel, Ordering::Acquire, set) {
            Ok(_) => Ok(()),
            Err(_) => Err(SettleError::Ended),
        }
    }

    /// Records that the flow ends. Returns the tokens that it was settled for.
    pub(crate) fn end(&self) -> Option<f64> {
        match self.0.swap(ENDED, Ordering::AcqRel) {
            NOT_SETTLED | ENDED => None,
            bits => Some(f64::from_bits(bits)),
        }
    }
}

/// Corrects the tokens of a flow that ends, if it was settled.
pub(crate) fn apply(ticket: &mut impl Ticket, settled: Option<f64>) {
    if let Some(actual_tokens) = settled {
        // Only valid tokens are recorded, and only for tickets that can be settled.
        let _ = ticket.settle(actual_tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_settlement_before_the_end_counts() {
        let settlement = LastSettlement::new();
        assert_eq!(settlement.set(5.0), Ok(()));
        assert_eq!(settlement.set(7.5), Ok(()));
        assert_eq!(settlement.set(f64::NAN), Err(SettleError::InvalidTokens));
        assert_eq!(settlement.end(), Some(7.5));
        assert_eq!(settlement.set(9.0), Err(SettleError::Ended));
        assert_eq!(settlement.end(), None);
    }

    #[test]
    fn a_flow_that_was_not_settled_has_no_settlement() {
        let settlement = LastSettlement::new();
        assert_eq!(settlement.end(), None);
        assert_eq!(settlement.set(0.0), Err(SettleError::Ended));
    }

    #[test]
    fn every_number_of_tokens_is_told_apart_from_the_states() {
        for tokens in [0.0, -0.0, f64::MIN_POSITIVE, 1.0, f64::MAX] {
            let settlement = LastSettlement::new();
            assert_eq!(settlement.set(tokens), Ok(()));
            assert_eq!(settlement.end(), Some(tokens));
        }
    }
}
