//! The queues of a scheduler, one per key.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::token_source::TokenSource;
use super::wait_queue::WaitQueue;
use crate::engine::clock::{Clock, Nanos};
use crate::engine::store::{EvictionLoss, Store, StoreLimits, StoredState};

/// The queues of one component.
#[derive(Debug)]
pub(crate) struct QueueStore<S: TokenSource> {
    store: Store<QueueEntry<S>>,
    rules: Arc<S::Rules>,
    clock: Arc<dyn Clock>,
    max_idle: AtomicI64,
    /// The time for which a key is kept at least after its last use.
    min_retention: AtomicI64,
}

#[derive(Debug)]
struct QueueEntry<S: TokenSource> {
    queue: Option<Arc<WaitQueue<S>>>,
    last_used: Nanos,
    min_retention: Nanos,
}

impl<S: TokenSource> StoredState for QueueEntry<S> {
    type Rules = S::Rules;

    fn new() -> Self {
        Self {
            queue: None,
            last_used: Nanos::MIN,
            min_retention: 0,
        }
    }

    fn expires_at(&self, max_idle: Nanos) -> Nanos {
        self.last_used()
            .saturating_add(max_idle.max(self.min_retention))
    }

    fn eviction_loss(&self, rules: &S::Rules, now: Nanos) -> EvictionLoss {
        let Some(queue) = &self.queue else {
            return EvictionLoss::none(self.last_used);
        };
        let loss = queue.with_source(|_, source| source.eviction_loss(rules, self.last_used, now));
        match self.is_in_use() {
            // Flows wait in it, hold slots, or are being decided.
            true => EvictionLoss {
                restored_at: Nanos::MAX,
                ..loss
            },
            false => loss,
        }
    }
}

impl<S: TokenSource> QueueEntry<S> {
    /// Returns true while waiting flows or held slots refer to the queue.
    fn is_in_use(&self) -> bool {
        self.queue
            .as_ref()
            .is_some_and(|queue| Arc::strong_count(queue) > 1)
    }

    /// Returns the time of the last use; `Nanos::MAX` while the key is in use.
    fn last_used(&self) -> Nanos {
        match self.is_in_use() {
            true => Nanos::MAX,
            false => self.last_used,
        }
    }
}

impl<S: TokenSource> QueueStore<S> {
    pub(crate) fn new(
        rules: S::Rules,
        limits: StoreLimits,
        min_retention: Nanos,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        Self {
            store: Store::new(limits),
            rules: Arc::new(rules),
            clock: Arc::clone(clock),
            max_idle: AtomicI64::new(limits.max_idle),
            min_retention: AtomicI64::new(min_retention),
        }
    }

    pub(crate) fn rules(&self) -> &S::Rules {
        &self.rules
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn queue(&self, key: &str, now: Nanos) -> Arc<WaitQueue<S>> {
        let max_idle = self.max_idle.load(Ordering::Relaxed);
        let min_retention = self.min_retention.load(Ordering::Relaxed);
        self.store.update(key, now, &self.rules, |entry| {
            if entry.expires_at(max_idle) <= now {
                entry.queue = None;
            }
            entry.last_used = now.max(entry.last_used);
            entry.min_retention = min_retention.max(entry.min_retention);
            let queue = entry
                .queue
                .get_or_insert_with(|| WaitQueue::new(&self.rules, &self.clock, key, now));
            Arc::clone(queue)
        })
    }

    /// Returns the queue of a key, if the key has one.
    pub(crate) fn existing(&self, key: &str) -> Option<Arc<WaitQueue<S>>> {
        self.store.peek(key, |entry| entry.queue.clone()).flatten()
    }

    /// Changes how long keys are kept after their last use.
    pub(crate) fn set_retention(&self, max_idle: Nanos, min_retention: Nanos) {
        self.max_idle.store(max_idle, Ordering::Relaxed);
        self.min_retention.store(min_retention, Ordering::Relaxed);
        self.store.set_max_idle(max_idle);
    }

    /// Migrates all sources to changed rules, and serves the waiting requests.
    pub(crate) fn change_rules(&self, again: bool, now: Nanos, mut change: impl FnMut(&mut S)) {
        let mut queues = Vec::new();
        self.store.each(|entry| queues.extend(entry.queue.clone()));
        for queue in queues {
            queue.change_rules(again, now, &mut change);
        }
    }

    /// Serves all queues again, because more tokens or slots may be available.
    pub(crate) fn serve(&self, now: Nanos) {
        let mut queues = Vec::new();
        self.store.each(|entry| {
            // A waiting request holds a reference to its queue.
            let has_waiters = |queue: &&Arc<WaitQueue<S>>| Arc::strong_count(queue) > 1;
            queues.extend(entry.queue.as_ref().filter(has_waiters).cloned());
        });
        for queue in queues {
            queue.serve(now);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.store.len()
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.store.evicted()
    }
}
