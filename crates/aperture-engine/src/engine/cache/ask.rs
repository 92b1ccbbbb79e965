//! Operations on shared caches that a flow or a caller waits for, and their results.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;

use super::replies::Replies;
use crate::engine::clock::Nanos;
use crate::engine::shared::{SharedCaches, StoreError, StoreKey, StoreReply};
use aperture_core::{CacheChange, CacheLookup, CacheRefusal};

/// The most operations of one call. The keys of further ones are refused.
const MAX_OPERATIONS: usize = 256;

/// An operation on one key of shared caches.
pub(crate) trait CacheOperation {
    type Outcome: Send + 'static;
    /// The results for all keys of a call.
    type Output;

    fn submit(self, caches: &dyn SharedCaches, reply: StoreReply<Self::Outcome>);

    fn output(
        result: Option<Result<Self::Outcome, CacheRefusal>>,
        global: Vec<(String, Result<Self::Outcome, CacheRefusal>)>,
    ) -> Self::Output;
}

/// Reads the value of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read(pub(super) StoreKey);

/// Stores or deletes the value of a key.
pub(crate) enum Write {
    Set(StoreKey, Bytes, Duration),
    Delete(StoreKey),
}

impl CacheOperation for Read {
    type Outcome = Option<Bytes>;
    type Output = CacheLookup;

    fn submit(self, caches: &dyn SharedCaches, reply: StoreReply<Option<Bytes>>) {
        caches.get(self.0, reply);
    }

    fn output(
        result: Option<Result<Option<Bytes>, CacheRefusal>>,
        global: Vec<(String, Result<Option<Bytes>, CacheRefusal>)>,
    ) -> CacheLookup {
        CacheLookup::new(result, global)
    }
}

impl CacheOperation for Write {
    type Outcome = ();
    type Output = CacheChange;

    fn submit(self, caches: &dyn SharedCaches, reply: StoreReply<()>) {
        match self {
            Self::Set(key, value, ttl) => caches.set(key, value, ttl, reply),
            Self::Delete(key) => caches.delete(key, reply),
        }
    }

    fn output(
        result: Option<Result<(), CacheRefusal>>,
        global: Vec<(String, Result<(), CacheRefusal>)>,
    ) -> CacheChange {
        CacheChange::new(result, global)
    }
}

/// The operation of a call on one key.
pub(super) enum Planned<O: CacheOperation> {
    /// The result is known without the store.
    Known(Result<O::Outcome, CacheRefusal>),
    Operation(O),
}

/// The result for a key, known or to come.
#[derive(Debug)]
enum KeyResult<T> {
    Known(Result<T, CacheRefusal>),
    /// The reply at the next place.
    Asked,
}

/// A call to the shared caches under way. Dropping it leaves a lookup; changes are made all the
/// same.
#[derive(Debug)]
pub(crate) struct CacheAsk<O: CacheOperation> {
    /// For the key of the result cache, if the call has one.
    result: Option<KeyResult<O::Outcome>>,
    global: Vec<(String, KeyResult<O::Outcome>)>,
    replies: Arc<Replies<O::Outcome>>,
    /// When the call ends without the replies that are missing.
    decide_at: Nanos,
    /// Counts the operations that were not answered in time, or refused by the store.
    failures: Arc<AtomicU64>,
}

/// A lookup in the shared caches under way.
pub(crate) type LookupAsk = CacheAsk<Read>;

impl<O: CacheOperation> CacheAsk<O> {
    /// Submits the operations, unless the caches are given up or no time is left for a reply.
    pub(super) fn start(
        caches: &dyn SharedCaches,
        failures: &Arc<AtomicU64>,
        result: Option<Planned<O>>,
        global: impl Iterator<Item = (String, Planned<O>)>,
        (now, decide_at): (Nanos, Nanos),
    ) -> Self {
        let may_ask = match caches.is_available() {
            true if decide_at > now => Ok(()),
            true => Err(late()),
            false => Err(away()),
        };
        let mut operations = Vec::new();
        let mut count = 0;
        let mut plan = |planned| {
            count += 1;
            match (planned, &may_ask) {
                (Planned::Known(known), _) => KeyResult::Known(known),
                _ if count > MAX_OPERATIONS => KeyResult::Known(Err(too_many())),
                (Planned::Operation(_), Err(refusal)) => {
                    failures.fetch_add(1, Ordering::Relaxed);
                    KeyResult::Known(Err(refusal.clone()))
                }
                (Planned::Operation(operation), Ok(())) => {
                    operations.push(operation);
                    KeyResult::Asked
                }
            }
        };
        let result = result.map(&mut plan);
        let global = global.map(|(key, planned)| (key, plan(planned))).collect();
        let replies = Replies::new(operations.len());
        for (at, operation) in operations.into_iter().enumerate() {
            operation.submit(caches, replies.reply(at));
        }
        Self {
            result,
            global,
            replies,
            decide_at,
            failures: Arc::clone(failures),
        }
    }

    /// Returns when the call ends without the replies that are missing.
    pub(crate) const fn decide_at(&self) -> Nanos {
        self.decide_at
    }

    /// Ends the call at its next poll.
    pub(crate) const fn give_up(&mut self) {
        self.decide_at = Nanos::MIN;
    }

    /// Returns true if the call is over. Otherwise the waker is woken when all replies are there.
    pub(crate) fn is_over(&self, now: Nanos, waker: Option<&Waker>) -> bool {
        self.replies.are_there(waker) || now >= self.decide_at
    }

    /// Calls `done` with the results once all replies are there.
    pub(super) fn on_done(self, done: impl FnOnce(O::Output) + Send + 'static)
    where
        O: 'static,
    {
        let replies = Arc::clone(&self.replies);
        replies.call(move || done(self.finish()));
    }

    /// Returns the results; a reply that is missing is late.
    pub(crate) fn finish(self) -> O::Output {
        let mut replies = self.replies.take().into_iter();
        let failures = &self.failures;
        let mut finish = |result| match result {
            KeyResult::Known(known) => known,
            KeyResult::Asked => {
                let reply = replies.next().flatten();
                let outcome = reply.map_or_else(|| Err(late()), |reply| reply.map_err(refusal_of));
                if outcome.is_err() {
                    failures.fetch_add(1, Ordering::Relaxed);
                }
                outcome
            }
        };
        let result = self.result.map(&mut finish);
        let global = self.global.into_iter();
        let global = global.map(|(key, result)| (key, finish(result))).collect();
        O::output(result, global)
    }
}

fn late() -> CacheRefusal {
    CacheRefusal::unreachable("the shared store did not answer in time")
}

fn away() -> CacheRefusal {
    CacheRefusal::unreachable("the shared store is not available")
}

fn too_many() -> CacheRefusal {
    CacheRefusal::new("a call to shared caches takes at most 256 keys")
}

fn refusal_of(error: StoreError) -> CacheRefusal {
    match error {
        StoreError::Unavailable => away(),
        refused @ StoreError::Refused(_) => CacheRefusal::new(refused.to_string()),
    }
}
