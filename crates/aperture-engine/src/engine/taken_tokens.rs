//! The tokens that a flow took from a bucket, until its end corrects them.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use smallvec::SmallVec;

use super::atomic_signal::AtomicSignal;
use super::held_slots::{HeldSlot, SlotOwner};
use super::request_id::RequestId;
use crate::policy::CountOnly;
use aperture_core::FlowOutcome;

/// Keys of at most this many bytes, such as UUIDs, need no allocation of their own.
const INLINE_KEY_BYTES: usize = 36;

/// The buckets that tokens were taken from.
pub(crate) trait TokenOwner: Send + Sync {
    /// Takes more tokens from the bucket of a key, or returns tokens, for which the amount is
    /// negative. Clears a remembered rejection of the key and serves flows that wait for tokens.
    ///
    /// The bucket keeps a debt of at most one capacity.
    fn correct(&self, key: &str, tokens: f64);
}

/// When the tokens of a flow are corrected.
#[derive(Debug)]
pub(crate) struct CorrectionRules {
    /// True if the flow may be settled: its tokens are an estimate of what it costs.
    pub(crate) settles: bool,
    /// Returns the tokens at the end of a flow whose outcome does not count.
    pub(crate) count_only: Option<CountOnly>,
}

/// The tokens that a flow took from the bucket of a key.
///
/// Dropping it leaves the bucket as it is: a flow that is not settled keeps its estimate, and a flow
/// without an outcome counts.
pub(crate) struct TakenTokens {
    from: Arc<dyn TokenOwner>,
    key: SmallVec<[u8; INLINE_KEY_BYTES]>,
    /// The tokens that the flow has taken, with the last settlement applied.
    consumed: AtomicSignal,
    rules: CorrectionRules,
}

impl TakenTokens {
    /// Returns the record of `consumed` tokens, for the flow to hold until its end.
    #[inline(never)]
    pub(crate) fn hold(
        from: Arc<dyn TokenOwner>,
        key: &str,
        consumed: f64,
        rules: CorrectionRules,
    ) -> HeldSlot {
        HeldSlot::of_tokens(Arc::new(Self {
            from,
            key: SmallVec::from_slice(key.as_bytes()),
            consumed: AtomicSignal::new(consumed),
            rules,
        }))
    }

    /// Changes the tokens that the flow has taken to `actual`.
    fn change_to(&self, actual: f64) {
        let more = actual - self.consumed.get();
        self.consumed.set(actual);
        // The bytes of a key are those of a text.
        if let Ok(key) = str::from_utf8(&self.key) {
            self.from.correct(key, more);
        }
    }
}

impl SlotOwner for TakenTokens {
    /// Tokens are not returned like a slot.
    fn return_slot(&self, _: RequestId) -> bool {
        false
    }

    fn settle(&self, actual_tokens: f64) {
        if self.rules.settles {
            self.change_to(actual_tokens);
        }
    }

    fn release_ended(&self, _: RequestId, outcome: FlowOutcome) {
        let Some(count_only) = &self.rules.count_only else {
            return;
        };
        if outcome.is_abandoned() || self.consumed.get() <= 0.0 {
            return;
        }
        // The flow may end while a panic unwinds, and a second panic would abort the process.
        let counts = catch_unwind(AssertUnwindSafe(|| count_only.counts(&outcome)));
        if !counts.unwrap_or(true) {
            self.change_to(0.0);
        }
    }
}

/// Omits the key, because it may identify a person.
impl fmt::Debug for TakenTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TakenTokens")
            .field("consumed", &self.consumed)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}
