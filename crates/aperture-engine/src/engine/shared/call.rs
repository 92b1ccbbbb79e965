//! One operation on the shared store and what becomes of its outcome: a flow uses it, or it is
//! returned to the store, exactly once.

use std::fmt;
use std::sync::{Arc, Weak};
use std::task::Waker;

use super::operation::{
    BucketSettings, LeaveSlots, StoreKey, StoreOperation, StoreOutcome, TokensMode,
};
use super::reply::{StoreError, StoreReply};
use super::{SharedStore, SlotListener, access};
use crate::engine::held_slots::SlotOwner;
use crate::engine::request_id::RequestId;
use crate::engine::sync::{Mutex, lock};

pub(crate) type StoreResult = Result<StoreOutcome, StoreError>;

/// Learns that the reply of an operation is there.
pub(crate) trait ReplyObserver: Send + Sync {
    fn replied(&self);
}

/// An operation under way, shared by the reply and the flow or queue that waits for it.
pub(crate) struct StoreCall {
    store: Arc<dyn SharedStore>,
    operation: StoreOperation,
    /// The queue whose head waits for the reply. A flow that waits by itself has a waker.
    observer: Option<Weak<dyn ReplyObserver>>,
    /// The queue that is served when a slot of this operation has been returned.
    freed: Option<Weak<dyn SlotListener>>,
    state: Mutex<CallState>,
}

enum CallState {
    /// Being submitted. The submitter looks for the reply itself.
    Submitting,
    Waiting(Option<Waker>),
    Replied(StoreResult),
    /// The outcome was used, or returned.
    Over,
    /// No flow waits any more. A grant is returned when it arrives.
    Left,
}

impl StoreCall {
    pub(super) fn new(
        store: &Arc<dyn SharedStore>,
        operation: StoreOperation,
        observer: Option<Weak<dyn ReplyObserver>>,
        freed: Option<Weak<dyn SlotListener>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(store),
            operation,
            observer,
            freed,
            state: Mutex::new(CallState::Submitting),
        })
    }

    pub(crate) const fn operation(&self) -> &StoreOperation {
        &self.operation
    }

    /// Submits the operation. Returns true if its reply is there already; the observer is not told
    /// then. The caller holds no lock that an observer takes.
    pub(crate) fn submit(self: &Arc<Self>) -> bool {
        if matches!(*lock(&self.state), CallState::Left) {
            // Its flow left before the operation was submitted.
            return false;
        }
        let call = Arc::clone(self);
        let reply = StoreReply::new(move |result| call.complete(result));
        self.store.submit(self.operation, reply);
        let mut state = lock(&self.state);
        match *state {
            CallState::Submitting => {
                *state = CallState::Waiting(None);
                false
            }
            CallState::Replied(_) => true,
            CallState::Waiting(_) | CallState::Over | CallState::Left => false,
        }
    }

    fn complete(&self, result: StoreResult) {
        if let (StoreOperation::Leave(_), Ok(StoreOutcome::Left(true))) = (&self.operation, &result)
        {
            notify_freed(self.freed.as_ref());
        }
        let mut state = lock(&self.state);
        let waker = match &mut *state {
            CallState::Submitting => {
                *state = CallState::Replied(result);
                return;
            }
            CallState::Waiting(waker) => {
                let waker = waker.take();
                *state = CallState::Replied(result);
                waker
            }
            CallState::Left => {
                *state = CallState::Over;
                drop(state);
                return self.undo(&result);
            }
            CallState::Replied(_) | CallState::Over => return,
        };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(observer) = self.observer.as_ref().and_then(Weak::upgrade) {
            observer.replied();
        }
    }

    /// Takes the result, or registers the waker.
    pub(super) fn poll(&self, waker: Option<&Waker>) -> Option<StoreResult> {
        // Dropped after the lock: dropping the last waker may drop a task that waits for this call.
        let mut _replaced = None;
        let mut state = lock(&self.state);
        if let CallState::Waiting(known) = &mut *state
            && let Some(waker) = waker
        {
            if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
                _replaced = known.replace(waker.clone());
            }
            drop(state);
            return None;
        }
        if !matches!(*state, CallState::Replied(_)) {
            return None;
        }
        let CallState::Replied(result) = std::mem::replace(&mut *state, CallState::Over) else {
            return None;
        };
        drop(state);
        // The slot may be held if the reply was lost. Returning one that is not held does nothing.
        if let (Err(_), StoreOperation::Enter(_)) = (&result, &self.operation) {
            self.undo(&result);
        }
        Some(result)
    }

    /// Stops waiting: a grant, also one that arrives later, is returned.
    pub(super) fn leave(&self) {
        let mut state = lock(&self.state);
        let before = match *state {
            CallState::Over | CallState::Left => return,
            CallState::Replied(_) => std::mem::replace(&mut *state, CallState::Over),
            CallState::Submitting | CallState::Waiting(_) => {
                std::mem::replace(&mut *state, CallState::Left)
            }
        };
        drop(state);
        if let CallState::Replied(result) = before {
            self.undo(&result);
        }
    }

    /// Returns what the operation took.
    fn undo(&self, result: &StoreResult) {
        match (&self.operation, result) {
            (StoreOperation::Take(take), Ok(StoreOutcome::Tokens(outcome))) if outcome.granted => {
                return_tokens(&*self.store, take.key, take.bucket, take.tokens);
            }
            (StoreOperation::Enter(enter), result) => {
                if let Ok(StoreOutcome::Slots(outcome)) = result
                    && !outcome.granted
                {
                    return;
                }
                self.return_slot(enter.id);
            }
            _ => {}
        }
    }

    const fn slots_key(&self) -> Option<StoreKey> {
        match &self.operation {
            StoreOperation::Enter(enter) => Some(enter.key),
            StoreOperation::Leave(leave) => Some(leave.key),
            StoreOperation::Take(_) => None,
        }
    }
}

/// The slot that the operation took.
impl SlotOwner for StoreCall {
    /// Returns true once the return is submitted.
    fn return_slot(&self, id: RequestId) -> bool {
        let Some(key) = self.slots_key() else {
            return false;
        };
        leave(&*self.store, LeaveSlots { key, id }, self.freed.clone());
        true
    }
}

/// Submits the return of a slot. `freed` is told when the store has confirmed it.
pub(super) fn leave(
    store: &dyn SharedStore,
    slot: LeaveSlots,
    freed: Option<Weak<dyn SlotListener>>,
) {
    let reply = StoreReply::new(move |result| {
        if let Ok(StoreOutcome::Left(true)) = result {
            notify_freed(freed.as_ref());
        }
    });
    store.submit(StoreOperation::Leave(slot), reply);
}

fn notify_freed(freed: Option<&Weak<dyn SlotListener>>) {
    if let Some(freed) = freed.and_then(Weak::upgrade) {
        freed.slots_freed();
    }
}

/// Submits the return of tokens. A remembered rejection does not discard them, as it does on an
/// Agent.
pub(super) fn return_tokens(
    store: &dyn SharedStore,
    key: StoreKey,
    bucket: BucketSettings,
    tokens: f64,
) {
    let mode = match bucket.upstream {
        true => TokensMode::Immediate,
        false => TokensMode::Correct,
    };
    let operation = access::take_tokens(key, bucket, -tokens, mode);
    store.submit(operation, StoreReply::new(drop));
}

impl fmt::Debug for StoreCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreCall").finish_non_exhaustive()
    }
}
