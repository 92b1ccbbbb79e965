//! Why a flow could not be settled.

use std::fmt;

/// Why a flow was not settled with its actual tokens.
///
/// ```
/// use tower_aperture::SettleError;
///
/// assert_eq!(SettleError::check(1200.0), Ok(()));
/// assert_eq!(SettleError::check(-1.0), Err(SettleError::InvalidTokens));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SettleError {
    /// The tokens are not a number, infinite, or less than zero.
    InvalidTokens,
    /// The flow has ended.
    Ended,
    /// The backend that decided about the flow cannot correct its tokens: an Agent, or a
    /// [`Decider`](crate::Decider) whose tickets do not support it.
    Unsupported,
}

impl SettleError {
    /// Checks the tokens of a settlement: a finite number, zero or more.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidTokens`](Self::InvalidTokens) for any other number.
    pub const fn check(actual_tokens: f64) -> Result<(), Self> {
        match actual_tokens.is_finite() && actual_tokens >= 0.0 {
            true => Ok(()),
            false => Err(Self::InvalidTokens),
        }
    }
}

impl fmt::Display for SettleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidTokens => {
                "the tokens of a settlement must be a finite number, zero or more"
            }
            Self::Ended => "the flow has ended: settle it before its end",
            Self::Unsupported => {
                "only the embedded engine can settle flows: an Agent keeps the estimate of the check"
            }
        })
    }
}

impl std::error::Error for SettleError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_numbers_from_zero_on_settle_a_flow() {
        for tokens in [0.0, -0.0, f64::MIN_POSITIVE, 1.5, f64::MAX] {
            assert_eq!(SettleError::check(tokens), Ok(()), "{tokens}");
        }
        for tokens in [-f64::MIN_POSITIVE, -1.0, f64::NAN, f64::INFINITY] {
            let refused = Err(SettleError::InvalidTokens);
            assert_eq!(SettleError::check(tokens), refused, "{tokens}");
        }
    }
}
