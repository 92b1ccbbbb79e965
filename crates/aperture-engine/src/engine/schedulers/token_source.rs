//! The sources of the tokens that a queue waits for: buckets and slots.

use std::fmt;
use std::sync::Weak;

use super::wait_queue::WaitQueue;
use crate::engine::clock::Nanos;
use crate::engine::request_id::RequestId;
use crate::engine::store::EvictionLoss;

/// How many newcomers may overtake a flow that waits for tokens.
pub(super) const MAX_OVERTAKING: u32 = 3;

/// A request for tokens from a source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TakeRequest {
    pub(crate) now: Nanos,
    pub(crate) tokens: f64,
    /// [`NO_DEADLINE`](crate::engine::engine_flow::NO_DEADLINE) means that the request has none.
    pub(crate) deadline: Nanos,
}

/// The state of the source after a request, and the slot if one was granted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TokenGrant {
    pub(crate) remaining: f64,
    pub(crate) current: f64,
    pub(crate) slot: Option<RequestId>,
    /// True if a source whose tokens are in a shared store granted them without the store.
    pub(crate) without_store: bool,
}

/// The reply of a source to the head of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SourceReply {
    Granted(TokenGrant),
    Rejected(TokenGrant),
    /// The tokens are reserved and may be used from this time on.
    GrantedFrom(Nanos, TokenGrant),
    /// No tokens are available. Ask again when some are returned, or at this time.
    RetryAt(Nanos),
}

/// A source of the tokens of a queue.
pub(crate) trait TokenSource: fmt::Debug + Send + Sized + 'static {
    /// The rules that the policy sets for all keys.
    type Rules: fmt::Debug + Send + Sync;

    /// What the source has to do once the lock of its queue is released: `()` for a source in
    /// process.
    type Outbox: Default;

    /// Returns how many newcomers may overtake a request that waits in the queue of its flow.
    fn max_overtaking(rules: &Self::Rules) -> u32;

    /// Creates the source of a queue for a key.
    fn new(rules: &Self::Rules, key: &str, queue: &Weak<WaitQueue<Self>>, now: Nanos) -> Self;

    /// Takes tokens for a request that does not have to queue, if they are available.
    fn take_immediately(
        &mut self,
        rules: &Self::Rules,
        request: &TakeRequest,
    ) -> Option<TokenGrant>;

    /// Takes tokens for the head of the queue.
    fn take(&mut self, rules: &Self::Rules, request: &TakeRequest) -> SourceReply;

    /// Returns tokens that were granted but not used. A slot is identified by its id.
    fn return_tokens(
        &mut self,
        rules: &Self::Rules,
        tokens: f64,
        grant: &TokenGrant,
        now: Nanos,
    ) -> bool;

    /// Returns a slot for a caller that ignores whether it was still held. Does nothing in a source
    /// without slots.
    fn release_slot(&mut self, _id: RequestId) {}

    /// Uses the reserved tokens, because the time they were reserved for has come.
    fn use_reserved(&mut self) {}

    /// Cancels the reservation of a head that leaves, as if it had never requested tokens.
    fn cancel_reserved(
        &mut self,
        rules: &Self::Rules,
        tokens: f64,
        grant: &TokenGrant,
        now: Nanos,
    ) {
        self.return_tokens(rules, tokens, grant, now);
    }

    /// Learns that the head left before it received its decision, and without a reservation.
    fn head_left(&mut self) {}

    /// Returns what is to be done once the lock of the queue is released.
    #[inline(always)]
    fn take_outbox(&mut self) -> Self::Outbox {
        Self::Outbox::default()
    }

    /// Does it, without the lock. Returns true if the head may have got its reply meanwhile.
    #[inline(always)]
    fn send(_rules: &Self::Rules, _outbox: Self::Outbox) -> bool {
        false
    }

    /// Returns the loss if this state, last used at `last_used`, is evicted.
    fn eviction_loss(&mut self, rules: &Self::Rules, last_used: Nanos, now: Nanos) -> EvictionLoss;

    /// Returns when a waiting request has to be rejected.
    fn give_up_at(deadline: Nanos) -> Nanos {
        deadline
    }

    /// Records a request that has received its decision, or that left without one.
    fn record_demand(&mut self, _tokens: f64, _granted: bool) {}
}
