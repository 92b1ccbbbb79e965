//! State per key: sharded, bounded, and removed when idle.
//!
//! Components access it by [`Store::update`], so that another store can take its place.

use std::borrow::Cow;
use std::fmt;
use std::sync::TryLockError;
use std::sync::atomic::{AtomicI64, Ordering};

use ahash::RandomState;
use hashbrown::HashTable;

use super::clock::Nanos;
use super::eviction::EvictionQueue;
use super::sync::{Mutex, lock};
use aperture_core::shorten::shorten;

pub(crate) use super::eviction::EvictionLoss;

/// After how many uses of a shard a part of another shard is swept for idle keys.
const SWEEP_EVERY_USES: u32 = 32;
/// Table buckets that one sweep examines. Two per use keep up with any flood of keys.
const SWEEP_BUCKETS: usize = 64;
/// With fewer keys per shard, a single shard could be full by chance while the store is not.
const MIN_KEYS_PER_SHARD: usize = 1024;
/// Tables below this size are not worth shrinking.
const MIN_SHRINK_BUCKETS: usize = 64;

/// The longest key in bytes that is stored as it is. A longer one is stored as its beginning and
/// 128 bits of its SHA-256, so that a key takes a bounded amount of memory.
const MAX_KEY_BYTES: usize = 255;

/// Returns the text that a key is stored under. Decisions name the key by its whole text, which
/// their flow holds.
fn stored_key(key: &str) -> Cow<'_, str> {
    match key.len() {
        ..=MAX_KEY_BYTES => Cow::Borrowed(key),
        _ => Cow::Owned(shorten(key, MAX_KEY_BYTES)),
    }
}

/// How much a store may hold, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreLimits {
    pub(crate) keys: usize,
    pub(crate) shards: usize,
    pub(crate) max_idle: Nanos,
}

/// The state that a store keeps per key.
pub(crate) trait StoredState {
    /// The rules that hold for all keys of a store.
    type Rules;

    /// Returns the state of a key that was never used, whose eviction loses nothing.
    fn new() -> Self;

    /// Returns the time from which on the state may be removed because the key was idle.
    fn expires_at(&self, max_idle: Nanos) -> Nanos;

    /// Returns what the key loses if it is evicted to make room for another one.
    fn eviction_loss(&self, rules: &Self::Rules, now: Nanos) -> EvictionLoss;
}

/// The state of all keys of one component.
pub(crate) struct Store<S> {
    shards: Box<[PaddedShard<S>]>,
    hasher: RandomState,
    keys_per_shard: usize,
    max_idle: AtomicI64,
}

/// Aligned to two cache lines, because processors fetch them in pairs.
#[repr(align(128))]
struct PaddedShard<S>(Mutex<Shard<S>>);

struct Shard<S> {
    table: HashTable<StoreEntry<S>>,
    /// Counts uses, to choose when and which shard to sweep.
    uses: u32,
    /// The table bucket at which the next sweep begins.
    cursor: usize,
    eviction_queue: EvictionQueue,
    evicted: u64,
}

struct StoreEntry<S> {
    key: Box<str>,
    state: S,
}

impl<S: StoredState> Store<S> {
    pub(crate) fn new(limits: StoreLimits) -> Self {
        let keys = limits.keys.max(1);
        let shards = limits
            .shards
            .min(keys / MIN_KEYS_PER_SHARD)
            .max(1)
            .next_power_of_two();
        Self {
            shards: (0..shards)
                .map(|_| PaddedShard(Mutex::new(Shard::new())))
                .collect(),
            hasher: RandomState::new(),
            keys_per_shard: keys / shards,
            max_idle: AtomicI64::new(limits.max_idle),
        }
    }

    /// Runs `act` once on the state of a key, which is created if the key is not stored yet.
    // Inlined, and with a single call of `act`: a function call would cost as much as the work.
    #[inline(always)]
    pub(crate) fn update<R>(
        &self,
        key: &str,
        now: Nanos,
        rules: &S::Rules,
        mut act: impl FnMut(&mut S) -> R,
    ) -> R {
        let short;
        let key = match key.len() {
            ..=MAX_KEY_BYTES => key,
            _ => {
                short = stored_key(key);
                &*short
            }
        };
        let hash = self.hasher.hash_one(key);
        // The table uses the lowest and the highest bits of the hash.
        let own = (hash >> 32) as usize & (self.shards.len() - 1);
        let mut shard = lock(&self.shards[own].0);
        let answer = loop {
            if let Some(entry) = shard.table.find_mut(hash, |entry| *entry.key == *key) {
                break act(&mut entry.state);
            }
            self.insert(&mut shard, hash, key, rules, now);
        };
        shard.uses = shard.uses.wrapping_add(1);
        let uses = shard.uses;
        drop(shard);
        if uses.is_multiple_of(SWEEP_EVERY_USES) {
            self.sweep_shard(own.wrapping_add((uses / SWEEP_EVERY_USES) as usize), now);
        }
        answer
    }

    fn max_idle(&self) -> Nanos {
        self.max_idle.load(Ordering::Relaxed)
    }

    /// Changes the idle time after which keys expire.
    pub(crate) fn set_max_idle(&self, max_idle: Nanos) {
        self.max_idle.store(max_idle, Ordering::Relaxed);
    }

    /// Runs `act` on all states, shard by shard.
    pub(crate) fn each_mut(&self, mut act: impl FnMut(&mut S)) {
        for shard in &self.shards {
            lock(&shard.0)
                .table
                .iter_mut()
                .for_each(|entry| act(&mut entry.state));
        }
    }

    /// Runs `see` on all states, shard by shard.
    pub(crate) fn each(&self, mut see: impl FnMut(&S)) {
        for shard in &self.shards {
            lock(&shard.0)
                .table
                .iter()
                .for_each(|entry| see(&entry.state));
        }
    }

    /// Runs `see` on the state of a key, if it is stored. Does not count as a use.
    pub(crate) fn peek<R>(&self, key: &str, see: impl FnOnce(&S) -> R) -> Option<R> {
        let key = &*stored_key(key);
        let hash = self.hasher.hash_one(key);
        let own = (hash >> 32) as usize & (self.shards.len() - 1);
        let shard = lock(&self.shards[own].0);
        let entry = shard.table.find(hash, |entry| *entry.key == *key)?;
        Some(see(&entry.state))
    }

    #[cold]
    fn insert(&self, shard: &mut Shard<S>, hash: u64, key: &str, rules: &S::Rules, now: Nanos) {
        if shard.table.len() >= self.keys_per_shard {
            self.evict_one(shard, rules, now);
        }
        shard.eviction_queue.added(hash);
        let entry = StoreEntry {
            key: Box::from(key),
            state: S::new(),
        };
        shard
            .table
            .insert_unique(hash, entry, |entry| self.hasher.hash_one(&*entry.key));
    }

    /// Removes expired keys from a part of a shard. Other shards' uses trigger it, so that traffic
    /// on one key sweeps all shards.
    #[cold]
    fn sweep_shard(&self, shard_number: usize, now: Nanos) {
        let shard = &self.shards[shard_number & (self.shards.len() - 1)].0;
        // If the shard is locked, the thread that holds it will trigger a sweep later.
        let mut shard = match shard.try_lock() {
            Ok(shard) => shard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let round_complete = shard.remove_idle(self.max_idle(), now);
        let (keys, buckets) = (shard.table.len(), shard.table.num_buckets());
        if round_complete && buckets > MIN_SHRINK_BUCKETS && keys < buckets / 4 {
            shard
                .table
                .shrink_to(keys * 2, |entry| self.hasher.hash_one(&*entry.key));
            shard.cursor = 0;
            shard.eviction_queue.clear();
        }
    }

    /// Removes the key that loses least. That may be one that has expired.
    fn evict_one(&self, shard: &mut Shard<S>, rules: &S::Rules, now: Nanos) {
        let max_idle = self.max_idle();
        let Shard {
            table,
            eviction_queue,
            ..
        } = shard;
        let hash_of = |entry: &StoreEntry<S>| self.hasher.hash_one(&*entry.key);
        let loss_of = |entry: &StoreEntry<S>| match entry.state.eviction_loss(rules, now) {
            // An expired key will be swept anyway, so it loses nothing.
            loss if entry.state.expires_at(max_idle) <= now => EvictionLoss::none(loss.last_used),
            loss => loss,
        };
        let all = || {
            let entries = table.iter();
            entries.map(|entry| (loss_of(entry), hash_of(entry)))
        };
        // For two keys with the same 64-bit hash, either may be removed.
        let same = |hash| move |entry: &StoreEntry<S>| hash_of(entry) == hash;
        let examine = |hash| Some(loss_of(table.find(hash, same(hash))?));
        let Some(hash) = eviction_queue.choose(table.len(), all, examine) else {
            return;
        };
        if let Ok(entry) = table.find_entry(hash, same(hash)) {
            let (entry, _) = entry.remove();
            if entry.state.expires_at(max_idle) > now {
                shard.evicted = shard.evicted.saturating_add(1);
            }
        }
    }

    /// Returns the number of stored keys, including expired ones that are not swept yet.
    pub(crate) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(&shard.0).table.len())
            .sum()
    }

    /// Returns the number of keys that were evicted to make room for others.
    pub(crate) fn evicted(&self) -> u64 {
        self.shards.iter().map(|shard| lock(&shard.0).evicted).sum()
    }
}

impl<S: StoredState> Shard<S> {
    fn new() -> Self {
        Self {
            table: HashTable::new(),
            uses: 0,
            cursor: 0,
            eviction_queue: EvictionQueue::default(),
            evicted: 0,
        }
    }

    /// Removes expired keys from the next table buckets. Returns true at the end of the table.
    fn remove_idle(&mut self, max_idle: Nanos, now: Nanos) -> bool {
        let buckets = self.table.num_buckets();
        let from = self.cursor.min(buckets);
        let to = (from + SWEEP_BUCKETS).min(buckets);
        for bucket in from..to {
            if let Ok(entry) = self.table.get_bucket_entry(bucket)
                && entry.get().state.expires_at(max_idle) <= now
            {
                entry.remove();
            }
        }
        self.cursor = if to == buckets { 0 } else { to };
        to == buckets
    }
}

/// Shows no keys, because they may identify people.
impl<S> fmt::Debug for Store<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("shards", &self.shards.len())
            .field("keys_per_shard", &self.keys_per_shard)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
