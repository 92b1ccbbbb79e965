//! Where the tokens come from that a queue waits for.

use std::fmt;

use crate::engine::clock::Nanos;
use crate::engine::request_id::RequestId;
use crate::engine::store::Loss;

/// A request for tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) now: Nanos,
    pub(crate) want: f64,
    /// [`NO_DEADLINE`](crate::engine::stages::NO_DEADLINE) is none.
    pub(crate) deadline: Nanos,
}

/// What tokens came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Grant {
    pub(crate) remaining: f64,
    pub(crate) current: f64,
    pub(crate) slot: Option<RequestId>,
}

/// What the head of a queue is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Take {
    Granted(Grant),
    Refused(Grant),
    /// Granted, and to be used from then on.
    From(Nanos, Grant),
    /// Nothing there; to be asked again when something is given back, or then.
    NotBefore(Nanos),
}

/// Where the tokens of a queue come from.
pub(crate) trait Source: fmt::Debug + Send + 'static {
    /// What the policy says, for all keys.
    type Rules: fmt::Debug + Send + Sync;

    /// How many newcomers may overtake a request that waits in its flow's queue.
    fn overtaking(rules: &Self::Rules) -> u32;

    fn new(now: Nanos) -> Self;

    /// Tokens for who does not have to queue, if they are there.
    fn take_at_once(&mut self, rules: &Self::Rules, ask: &Ask) -> Option<Grant>;

    /// Tokens for the head of the queue.
    fn take(&mut self, rules: &Self::Rules, ask: &Ask) -> Take;

    /// Takes tokens back that were granted but not used; a slot is meant by its name.
    fn put_back(&mut self, rules: &Self::Rules, want: f64, grant: &Grant, now: Nanos) -> bool;

    /// The head, which has slept until its tokens were there, uses them.
    fn settle(&mut self) {}

    /// The head leaves while it sleeps until its tokens are there: all is as if it had not come.
    fn cancel(&mut self, rules: &Self::Rules, want: f64, grant: &Grant, now: Nanos) {
        self.put_back(rules, want, grant, now);
    }

    /// What is lost when this is forgotten, whose last use was then.
    fn loss(&mut self, rules: &Self::Rules, used: Nanos, now: Nanos) -> Loss;

    /// When a request that waits has to go.
    fn give_up_at(deadline: Nanos) -> Nanos {
        deadline
    }

    /// Counts a request whose answer was taken, or that left without one.
    fn ended(&mut self, _want: f64, _granted: bool) {}
}
