//! State per key: sharded, bounded, and forgotten when idle.
//!
//! A component sees [`Store::update`] and nothing else of it, so that another store can stand in.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{PoisonError, TryLockError};

use ahash::RandomState;
use hashbrown::HashTable;

use super::clock::Nanos;
use super::eviction::Victims;
use super::sync::{Mutex, MutexGuard};
use crate::flow::shorten::shorten;

pub(crate) use super::eviction::Loss;

/// Every so many uses of a shard somebody else's idle keys are looked for.
const USES_A_TURN: u32 = 32;
/// Places looked at then: two a use keep up with any flood.
const PLACES_A_TURN: usize = 64;
/// A bound below this many keys a shard would be reached by chance.
const LEAST_KEYS_A_SHARD: usize = 1024;
/// Tables below this size are not worth shrinking.
const LEAST_PLACES: usize = 64;

/// Bytes of a key that is kept as it is. A longer one is kept as its beginning and 128 bits of its
/// SHA-256, so that a key costs a bounded amount of memory however long its text is.
const LONGEST_KEY: usize = 255;

/// Returns the text that a key is kept under. Decisions name the key by its whole text, which their
/// flow has.
fn kept_key(key: &str) -> Cow<'_, str> {
    match key.len() {
        ..=LONGEST_KEY => Cow::Borrowed(key),
        _ => Cow::Owned(shorten(key, LONGEST_KEY)),
    }
}

/// How much a store may hold, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) keys: usize,
    pub(crate) shards: usize,
    pub(crate) max_idle: Nanos,
}

/// What is kept of a key.
pub(crate) trait Kept {
    /// What holds for all keys of a store.
    type Rules;

    /// A key that was never used; costs nothing to forget.
    fn new() -> Self;

    /// From then on the state may be forgotten because the key idled.
    fn forget_at(&self, max_idle: Nanos) -> Nanos;

    /// What the key loses when it is forgotten to make room for another one.
    fn loss(&self, rules: &Self::Rules, now: Nanos) -> Loss;
}

/// The states of one component.
pub(crate) struct Store<S> {
    shards: Box<[Padded<S>]>,
    hasher: RandomState,
    keys_a_shard: usize,
    max_idle: AtomicI64,
}

/// Two lines, because processors fetch them in pairs.
#[repr(align(128))]
struct Padded<S>(Mutex<Shard<S>>);

struct Shard<S> {
    table: HashTable<Entry<S>>,
    /// Uses, to know whose turn it is.
    uses: u32,
    /// Where the search for idle keys goes on.
    cursor: usize,
    victims: Victims,
    evicted: u64,
}

struct Entry<S> {
    key: Box<str>,
    state: S,
}

impl<S: Kept> Store<S> {
    pub(crate) fn new(limits: Limits) -> Self {
        let keys = limits.keys.max(1);
        let shards = limits
            .shards
            .min(keys / LEAST_KEYS_A_SHARD)
            .max(1)
            .next_power_of_two();
        Self {
            shards: (0..shards)
                .map(|_| Padded(Mutex::new(Shard::new())))
                .collect(),
            hasher: RandomState::new(),
            keys_a_shard: keys / shards,
            max_idle: AtomicI64::new(limits.max_idle),
        }
    }

    /// Runs `act`, once, on the state of a key, which is new when the key is not known.
    // Inlined, and with one place that acts: a call would cost as much as what it does.
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
            ..=LONGEST_KEY => key,
            _ => {
                short = kept_key(key);
                &*short
            }
        };
        let hash = self.hasher.hash_one(key);
        // The table uses the lowest and the highest bits.
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
        if uses.is_multiple_of(USES_A_TURN) {
            self.tidy(own.wrapping_add((uses / USES_A_TURN) as usize), now);
        }
        answer
    }

    fn max_idle(&self) -> Nanos {
        self.max_idle.load(Ordering::Relaxed)
    }

    /// Keys are forgotten after another time from now on.
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

    /// Runs `see` on the state of a key that is known, which does not count as a use.
    pub(crate) fn look<R>(&self, key: &str, see: impl FnOnce(&S) -> R) -> Option<R> {
        let key = &*kept_key(key);
        let hash = self.hasher.hash_one(key);
        let own = (hash >> 32) as usize & (self.shards.len() - 1);
        let shard = lock(&self.shards[own].0);
        let entry = shard.table.find(hash, |entry| *entry.key == *key)?;
        Some(see(&entry.state))
    }

    #[cold]
    fn insert(&self, shard: &mut Shard<S>, hash: u64, key: &str, rules: &S::Rules, now: Nanos) {
        if shard.table.len() >= self.keys_a_shard {
            self.make_room(shard, rules, now);
        }
        shard.victims.added(hash);
        let entry = Entry {
            key: Box::from(key),
            state: S::new(),
        };
        shard
            .table
            .insert_unique(hash, entry, |entry| self.hasher.hash_one(&*entry.key));
    }

    /// Looks for idle keys in some shard, so that traffic on one key tidies them all.
    #[cold]
    fn tidy(&self, turn: usize, now: Nanos) {
        let shard = &self.shards[turn & (self.shards.len() - 1)].0;
        // Whoever holds it will have a turn too.
        let mut shard = match shard.try_lock() {
            Ok(shard) => shard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let around = shard.forget_idle(self.max_idle(), now);
        let (used, places) = (shard.table.len(), shard.table.num_buckets());
        if around && places > LEAST_PLACES && used < places / 4 {
            shard
                .table
                .shrink_to(used * 2, |entry| self.hasher.hash_one(&*entry.key));
            shard.cursor = 0;
            shard.victims.clear();
        }
    }

    /// Removes the key that loses least, which may be one that idled for long enough anyway.
    fn make_room(&self, shard: &mut Shard<S>, rules: &S::Rules, now: Nanos) {
        let max_idle = self.max_idle();
        let Shard { table, victims, .. } = shard;
        let hash_of = |entry: &Entry<S>| self.hasher.hash_one(&*entry.key);
        let loss_of = |entry: &Entry<S>| match entry.state.loss(rules, now) {
            // It would be swept up anyway.
            loss if entry.state.forget_at(max_idle) <= now => Loss::none(loss.used),
            loss => loss,
        };
        let all = || {
            let entries = table.iter();
            entries.map(|entry| (loss_of(entry), hash_of(entry)))
        };
        // Two keys of one hash of 64 bits are as good as one: either may go.
        let same = |hash| move |entry: &Entry<S>| hash_of(entry) == hash;
        let look = |hash| Some(loss_of(table.find(hash, same(hash))?));
        let Some(hash) = victims.choose(table.len(), all, look) else {
            return;
        };
        if let Ok(entry) = table.find_entry(hash, same(hash)) {
            let (entry, _) = entry.remove();
            if entry.state.forget_at(max_idle) > now {
                shard.evicted = shard.evicted.saturating_add(1);
            }
        }
    }

    /// Keys with state, the forgotten ones that are not swept up yet included.
    pub(crate) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(&shard.0).table.len())
            .sum()
    }

    /// Keys that made room for others.
    pub(crate) fn evicted(&self) -> u64 {
        self.shards.iter().map(|shard| lock(&shard.0).evicted).sum()
    }
}

impl<S: Kept> Shard<S> {
    fn new() -> Self {
        Self {
            table: HashTable::new(),
            uses: 0,
            cursor: 0,
            victims: Victims::default(),
            evicted: 0,
        }
    }

    /// Looks at the next places; true when that completed a round.
    fn forget_idle(&mut self, max_idle: Nanos, now: Nanos) -> bool {
        let places = self.table.num_buckets();
        let from = self.cursor.min(places);
        let to = (from + PLACES_A_TURN).min(places);
        for place in from..to {
            if let Ok(entry) = self.table.get_bucket_entry(place)
                && entry.get().state.forget_at(max_idle) <= now
            {
                entry.remove();
            }
        }
        self.cursor = if to == places { 0 } else { to };
        to == places
    }
}

/// A panic while the lock was held leaves a state that is still a state: go on with it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keys may identify people: none of them is shown.
impl<S> fmt::Debug for Store<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("shards", &self.shards.len())
            .field("keys_a_shard", &self.keys_a_shard)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count {
        uses: u32,
        used: Nanos,
    }

    impl Kept for Count {
        type Rules = ();

        fn new() -> Self {
            Self {
                uses: 0,
                used: Nanos::MIN,
            }
        }

        fn forget_at(&self, max_idle: Nanos) -> Nanos {
            self.used.saturating_add(max_idle)
        }

        /// Each use counts, and nothing is filled again.
        fn loss(&self, (): &(), _: Nanos) -> Loss {
            Loss {
                until: Nanos::MAX,
                tokens: f64::from(self.uses),
                used: self.used,
            }
        }
    }

    fn store(keys: usize, shards: usize) -> Store<Count> {
        Store::new(Limits {
            keys,
            shards,
            max_idle: 100,
        })
    }

    fn touch(store: &Store<Count>, key: &str, now: Nanos) -> u32 {
        store.update(key, now, &(), |count| {
            count.uses += 1;
            count.used = now;
            count.uses
        })
    }

    #[test]
    fn a_key_finds_its_state_again() {
        let store = store(1 << 20, 16);
        assert_eq!(store.shards.len(), 16);
        for _ in 0..2 {
            for key in 0..5000 {
                touch(&store, &key.to_string(), 0);
            }
        }
        assert_eq!(touch(&store, "77", 0), 3);
        assert_eq!(store.len(), 5000);
    }

    #[test]
    fn traffic_on_one_key_sweeps_up_the_idle_ones_and_gives_memory_back() {
        let store = store(1 << 20, 8);
        for key in 0..20_000 {
            touch(&store, &key.to_string(), 0);
        }
        let before: usize = places(&store);
        for _ in 0..200_000 {
            touch(&store, "busy", 100);
        }
        assert_eq!(store.len(), 1);
        assert_eq!(store.evicted(), 0);
        assert!(places(&store) < before / 10);
    }

    #[test]
    fn long_keys_are_kept_as_hashes_and_stay_apart() {
        let store = store(1 << 20, 4);
        let long = |end: &str| "x".repeat(1 << 20) + end;
        for end in ["a", "b"] {
            assert_eq!(touch(&store, &long(end), 0), 1);
            assert_eq!(touch(&store, &long(end), 0), 2);
        }
        assert_eq!(store.look(&long("b"), |count| count.uses), Some(2));
        let kept = |shard: &Padded<Count>| {
            let shard = lock(&shard.0);
            let bytes: usize = shard.table.iter().map(|entry| entry.key.len()).sum();
            bytes
        };
        let bytes: usize = store.shards.iter().map(kept).sum();
        assert!(bytes < 2 * LONGEST_KEY, "{bytes}");
    }

    fn places(store: &Store<Count>) -> usize {
        store
            .shards
            .iter()
            .map(|shard| lock(&shard.0).table.num_buckets())
            .sum()
    }

    #[test]
    fn a_full_store_makes_room_by_the_key_that_loses_least_and_of_equals_by_the_idlest() {
        let store = store(8, 8);
        for key in 0..8 {
            touch(&store, &key.to_string(), key + 1);
        }
        touch(&store, "0", 50);
        touch(&store, "new", 60);
        assert_eq!((store.len(), store.evicted()), (8, 1));
        assert_eq!(touch(&store, "0", 70), 3);
        assert_eq!(touch(&store, "1", 70), 1);
    }

    #[test]
    fn a_flood_takes_nothing_from_keys_that_lose_more_wherever_they_are() {
        // Most of one shard, and few of many.
        for (bound, busy) in [(100, 99), (100, 1), (5000, 40)] {
            let store = store(bound, 8);
            for _ in 0..3 {
                for key in 0..busy {
                    touch(&store, &format!("busy {key}"), 1);
                }
            }
            for key in 0..4 * bound {
                touch(&store, &format!("made up {key}"), 2 + key as Nanos / 1000);
            }
            for key in 0..busy {
                assert_eq!(touch(&store, &format!("busy {key}"), 40), 4, "{key}");
            }
        }
    }

    #[test]
    fn a_key_that_comes_to_lose_more_after_it_was_looked_at_stays() {
        let store = store(16, 1);
        for key in 0..17 {
            touch(&store, &key.to_string(), key);
        }
        // Most have been looked at, each with one use.
        for key in 9..17 {
            touch(&store, &key.to_string(), 50);
        }
        for key in 100..200 {
            touch(&store, &key.to_string(), 60);
        }
        for key in 9..17 {
            assert_eq!(touch(&store, &key.to_string(), 70), 3, "{key}");
        }
    }

    #[test]
    fn a_flood_never_exceeds_the_bound() {
        for bound in [1, 2, 100, 3000] {
            let store = store(bound, 64);
            for key in 0..10_000 {
                touch(&store, &key.to_string(), key / 1000);
                assert!(store.len() <= bound);
            }
            assert!(store.len() > bound / 2);
        }
    }

    #[test]
    fn a_poisoned_lock_is_no_reason_to_panic() {
        let store = store(16, 1);
        touch(&store, "a", 0);
        std::thread::scope(|threads| {
            let thread = threads.spawn(|| {
                store.update("a", 0, &(), |_| -> () {
                    std::panic::resume_unwind(Box::new("on purpose"));
                });
            });
            assert!(thread.join().is_err());
        });
        assert_eq!(touch(&store, "a", 0), 2);
    }
}
