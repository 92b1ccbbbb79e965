//! The sources of the tokens that a queue waits for: buckets and slots.

use std::fmt;

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
pub(crate) trait TokenSource: fmt::Debug + Send + 'static {
    /// The rules that the policy sets for all keys.
    type Rules: fmt::Debug + Send + Sync;

    /// Returns how many newcomers may overtake a request that waits in the queue of its flow.
    fn max_overtaking(rules: &Self::Rules) -> u32;

    fn new(now: Nanos) -> Self;

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

    /// Returns the loss if this state, last used at `last_used`, is evicted.
    fn eviction_loss(&mut self, rules: &Self::Rules, last_used: Nanos, now: Nanos) -> EvictionLoss;

    /// Returns when a waiting request has to be rejected.
    fn give_up_at(deadline: Nanos) -> Nanos {
        deadline
    }

    /// Records a request that has received its decision, or that left without one.
    fn record_demand(&mut self, _tokens: f64, _granted: bool) {}
}
