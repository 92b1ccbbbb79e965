//! A question to the shared store, and its answer, which is late after the store's deadline.

use std::sync::Arc;
use std::task::{Poll, Waker};

use super::call::StoreCall;
use super::operation::{SlotsOutcome, StoreOperation, StoreOutcome, TokensOutcome};
use crate::engine::clock::Nanos;
use crate::engine::held_slots::HeldSlot;

/// The right to the outcome of an operation. Dropping it returns what the operation took, or will
/// take.
#[derive(Debug)]
pub(crate) struct PendingCall(Arc<StoreCall>);

impl Drop for PendingCall {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// A flow, or the head of a queue, that waits for the store. Dropping it returns what the store
/// grants.
#[derive(Debug)]
pub(crate) struct StoreAsk {
    call: PendingCall,
    asked_at: Nanos,
    decide_at: Nanos,
}

impl StoreAsk {
    pub(super) fn new(call: Arc<StoreCall>, asked_at: Nanos, decide_at: Nanos) -> Self {
        Self {
            call: PendingCall(call),
            asked_at,
            decide_at,
        }
    }

    pub(crate) fn call(&self) -> &Arc<StoreCall> {
        &self.call.0
    }

    /// Returns when the flow is decided without the store.
    pub(crate) fn decide_at(&self) -> Nanos {
        self.decide_at
    }

    /// Returns the guard alone, to drop it where no lock is held.
    pub(crate) fn into_call(self) -> PendingCall {
        self.call
    }

    pub(crate) fn poll(&mut self, now: Nanos, waker: &Waker) -> Poll<StoreAnswer> {
        match self.answer(now, Some(waker)) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }

    /// Returns the answer if it is there, or late.
    pub(crate) fn try_answer(&mut self, now: Nanos) -> Option<StoreAnswer> {
        self.answer(now, None)
    }

    fn answer(&mut self, now: Nanos, waker: Option<&Waker>) -> Option<StoreAnswer> {
        let result = self.call.0.poll(waker);
        if result.is_none() && now < self.decide_at {
            return None;
        }
        Some(self.answer_with(result.and_then(Result::ok)))
    }

    /// Returns the answer if it is there; else it counts as late.
    pub(crate) fn give_up(&mut self) -> StoreAnswer {
        let result = self.call.0.poll(None);
        self.answer_with(result.and_then(Result::ok))
    }

    fn answer_with(&self, outcome: Option<StoreOutcome>) -> StoreAnswer {
        if outcome.is_none() {
            self.call.0.leave();
        }
        StoreAnswer {
            outcome,
            call: Arc::clone(&self.call.0),
            asked_at: self.asked_at,
        }
    }
}

/// The answer of the store, which may be that it did not answer in time.
#[derive(Debug)]
pub(crate) struct StoreAnswer {
    outcome: Option<StoreOutcome>,
    call: Arc<StoreCall>,
    asked_at: Nanos,
}

impl StoreAnswer {
    pub(crate) fn asked_at(&self) -> Nanos {
        self.asked_at
    }

    /// Returns what came of taking tokens; `None` without an answer.
    pub(crate) fn tokens(&self) -> Option<TokensOutcome> {
        match self.outcome {
            Some(StoreOutcome::Tokens(outcome)) => Some(outcome),
            _ => None,
        }
    }

    /// Returns what came of taking a slot; `None` without an answer.
    pub(crate) fn slots(&self) -> Option<SlotsOutcome> {
        match self.outcome {
            Some(StoreOutcome::Slots(outcome)) => Some(outcome),
            _ => None,
        }
    }

    /// Returns whether a slot that was returned was held; `None` without an answer.
    pub(crate) fn left(&self) -> Option<bool> {
        match self.outcome {
            Some(StoreOutcome::Left(held)) => Some(held),
            _ => None,
        }
    }

    pub(crate) fn operation(&self) -> &StoreOperation {
        self.call.operation()
    }

    /// Returns the slot that was granted, which is returned to the store when it is dropped.
    pub(crate) fn into_slot(self) -> Option<HeldSlot> {
        let StoreOperation::Enter(enter) = *self.call.operation() else {
            return None;
        };
        Some(HeldSlot::new(self.call, enter.id))
    }
}
