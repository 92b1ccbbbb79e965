//! The operations on a shared store, and their outcomes.

use std::fmt;
use std::time::Duration;

use super::super::request_id::RequestId;

/// Identifies a bucket or a set of slots in a shared store: 128 bits of a SHA-256 of the policy, the
/// component and the value of the label that it limits by.
///
/// Engines with the same policy have the same keys. The label value cannot be read from the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreKey([u8; 16]);

impl StoreKey {
    /// Returns the key with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Writes 32 hexadecimal digits.
impl fmt::Display for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreKey({self})")
    }
}

/// One operation on a shared store. The store applies it as a whole or not at all.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum StoreOperation {
    /// Takes tokens from a bucket, or returns tokens. Its outcome is [`StoreOutcome::Tokens`].
    Take(TakeTokens),
    /// Takes a slot. Its outcome is [`StoreOutcome::Slots`].
    Enter(EnterSlots),
    /// Returns a slot. Its outcome is [`StoreOutcome::Left`].
    Leave(LeaveSlots),
}

/// The settings of a bucket, as its policy has them now. All numbers are finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BucketSettings {
    /// The tokens that the bucket holds at most.
    pub capacity: f64,
    /// The tokens that are filled in per interval.
    pub fill: f64,
    /// The fill interval; at least 1 ns.
    pub interval: Duration,
    /// True if the bucket fills continuously; false if it fills once per interval.
    pub continuous: bool,
    /// True if a full bucket that tokens are taken from pauses for the time to fill it, before it
    /// fills again.
    pub delayed: bool,
    /// True if the bucket behaves exactly as an Agent's, quirks included.
    pub upstream: bool,
    /// The idle time after which the bucket is full again and forgotten; `None` for never.
    pub max_idle: Option<Duration>,
}

/// The way in which a bucket gives tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum TokensMode {
    /// Takes the tokens if the bucket holds them now. A rejection is remembered until its tokens
    /// are available, and rejects requests for as many tokens or fewer until then. A negative
    /// amount returns tokens, and is discarded while a rejection is remembered.
    Immediate,
    /// Takes the tokens also if they are filled in only within this time; the outcome states the
    /// wait. Ignores a remembered rejection. `None` means that any wait is accepted.
    Within(Option<Duration>),
    /// Adds tokens (for which the amount is negative) or takes them into debt, whatever rejection
    /// is remembered, and clears that memory. The debt is at most one capacity. It is always
    /// granted.
    Correct,
}

/// Takes tokens from a bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TakeTokens {
    /// The bucket.
    pub key: StoreKey,
    /// The settings of the bucket. If they differ from those of the last operation, the store fills
    /// the bucket by the earlier ones first; the balance stays, up to the new capacity.
    pub bucket: BucketSettings,
    /// The tokens to take; negative to return tokens.
    pub tokens: f64,
    /// The way in which the bucket gives them.
    pub mode: TokensMode,
}

/// Takes a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EnterSlots {
    /// The set of slots.
    pub key: StoreKey,
    /// The id of the new slot.
    pub id: RequestId,
    /// The tokens that the slot counts for.
    pub tokens: f64,
    /// The flow is accepted while less than this many tokens are in flight, whatever its own
    /// tokens.
    pub capacity: f64,
    /// The time after which the slot expires even if its engine still holds it.
    pub lifetime: Duration,
    /// True if a rejected flow waits for a slot: its engine wants to learn of freed slots.
    pub waits: bool,
}

/// Returns a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaveSlots {
    /// The set of slots.
    pub key: StoreKey,
    /// The id of the slot.
    pub id: RequestId,
}

/// The outcome of an operation.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum StoreOutcome {
    /// The outcome of [`StoreOperation::Take`].
    Tokens(TokensOutcome),
    /// The outcome of [`StoreOperation::Enter`].
    Slots(SlotsOutcome),
    /// The outcome of [`StoreOperation::Leave`]: true if the slot was held.
    Left(bool),
}

/// The outcome of taking tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokensOutcome {
    /// True if the tokens were taken.
    pub granted: bool,
    /// The time until the tokens are available; zero if they are, or if they never will be.
    pub wait: Duration,
    /// True if the request would be rejected however long it waited.
    pub unsatisfiable: bool,
    /// The tokens left in the bucket.
    pub remaining: f64,
    /// The tokens missing to the capacity.
    pub current: f64,
}

/// The outcome of taking a slot. The amounts are those before the slot was taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlotsOutcome {
    /// True if the slot was taken.
    pub granted: bool,
    /// The tokens in flight.
    pub current: f64,
    /// The time until the oldest slot expires, if a slot is held.
    pub next_expiry: Option<Duration>,
}
