//! A flow in a queue, as the steps of a decision see it.

use std::fmt;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::engine::clock::Nanos;
use crate::engine::decision::{ComponentDecision, DecisionWithSlot};
use crate::engine::held_slots::HeldSlot;

/// A queue, independent of the source of its tokens.
pub(super) trait WaiterQueue: Send + Sync {
    /// Returns the decision, or the time of the next poll.
    fn poll(
        self: Arc<Self>,
        id: usize,
        now: Nanos,
        waker: &Waker,
    ) -> Result<DecisionWithSlot, Nanos>;
    /// Removes a request, and returns what it was granted meanwhile. It counts as rejected.
    fn leave(&self, id: usize);
}

/// A flow in a queue. Dropping it leaves the queue and returns what the flow was granted meanwhile.
///
/// A flow that leaves was not served, so it counts as rejected.
pub(crate) struct Waiter {
    queue: Arc<dyn WaiterQueue>,
    /// `None` once the decision was taken.
    id: Option<usize>,
    next_poll_at: Nanos,
    /// The record of tokens that a granted flow holds beside the slot of its queue.
    taken: Option<HeldSlot>,
}

impl Waiter {
    pub(super) fn new(queue: Arc<dyn WaiterQueue>, id: usize, next_poll_at: Nanos) -> Self {
        Self {
            queue,
            id: Some(id),
            next_poll_at,
            taken: None,
        }
    }

    /// Adds the record of the tokens that the flow takes once it is granted.
    pub(super) fn with_taken(mut self, taken: HeldSlot) -> Self {
        self.taken = Some(taken);
        self
    }

    pub(crate) fn poll(&mut self, now: Nanos, waker: &Waker) -> Poll<DecisionWithSlot> {
        let Some(id) = self.id else {
            return Poll::Ready(DecisionWithSlot::from(ComponentDecision::REJECTED));
        };
        match Arc::clone(&self.queue).poll(id, now, waker) {
            Ok(mut decided) => {
                self.id = None;
                let decision = &decided.decision;
                if !decision.dropped && !decision.without_store && decided.slot.is_none() {
                    decided.slot = self.taken.take();
                }
                Poll::Ready(decided)
            }
            Err(next_poll_at) => {
                self.next_poll_at = next_poll_at;
                Poll::Pending
            }
        }
    }

    /// Returns when to poll again if the waker is not called before.
    pub(crate) fn next_poll_at(&self) -> Nanos {
        self.next_poll_at
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.queue.leave(id);
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").finish_non_exhaustive()
    }
}
