//! What the source of a queue has to do with the shared store once the lock of the queue is
//! released: a store may reply at once, and the reply takes that lock.

use std::sync::{Arc, Weak};

use smallvec::SmallVec;

use super::SlotListener;
use super::access::StoreAccess;
use super::ask::{PendingCall, StoreAsk};
use super::call::StoreCall;
use super::operation::{BucketSettings, StoreKey};
use crate::engine::request_id::RequestId;

/// Operations to submit. There are at most a few for each time that the queue is locked: one
/// question of the head, and what the flows that left return.
#[derive(Debug, Default)]
pub(crate) struct StoreOutbox {
    listen: Option<StoreKey>,
    left: SmallVec<[PendingCall; 1]>,
    call: Option<Arc<StoreCall>>,
    tokens: SmallVec<[(StoreKey, BucketSettings, f64); 1]>,
    slots: SmallVec<[(StoreKey, RequestId); 1]>,
}

impl StoreOutbox {
    /// Registers the queue, before the question is submitted.
    pub(crate) fn listen(&mut self, key: StoreKey) {
        self.listen = Some(key);
    }

    /// Submits the question of the head.
    pub(crate) fn ask(&mut self, ask: &StoreAsk) {
        self.call = Some(Arc::clone(ask.call()));
    }

    /// Returns what the store grants to a head that left.
    pub(crate) fn leave(&mut self, ask: StoreAsk) {
        self.left.push(ask.into_call());
    }

    pub(crate) fn return_tokens(&mut self, key: StoreKey, bucket: BucketSettings, tokens: f64) {
        self.tokens.push((key, bucket, tokens));
    }

    pub(crate) fn return_slot(&mut self, key: StoreKey, id: RequestId) {
        self.slots.push((key, id));
    }

    /// Submits everything. Returns true if the question of the head is answered already.
    pub(crate) fn send(self, access: &StoreAccess, freed: Option<&Weak<dyn SlotListener>>) -> bool {
        if let (Some(key), Some(freed)) = (self.listen, freed) {
            access.listen(key, freed.clone());
        }
        drop(self.left);
        for (key, bucket, tokens) in self.tokens {
            access.return_tokens(key, bucket, tokens);
        }
        for (key, id) in self.slots {
            access.leave(key, id, freed.cloned());
        }
        self.call.is_some_and(|call| call.submit())
    }
}
