//! Records which cached responses this process must no longer use.
//!
//! Invalidations are kept in a table of fixed size, indexed by a hash of the key. Keys with the
//! same hash share an entry: an unrelated key may lose a cached response, but an invalidated
//! response is never used.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The number of entries of the table. They take 128 KiB, allocated by the first invalidation.
const TABLE_ENTRIES: usize = 4096;

/// The longest time that caches keep a value: seven days.
const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The largest difference between the clocks of two processes that share a cache, in milliseconds.
const CLOCK_SKEW: u64 = 1000;

/// The cache keys that requests of this process have invalidated.
///
/// A response to a request that began before its key was invalidated is neither served nor stored
/// afterwards. Until the cache has deleted the key, the layer does not use the cache for it.
///
/// Deciders that use the same caches should share one value, because they see each other's
/// invalidations only through it. Clones share their state. All clients of the same Agents or of
/// the same embedded engine share one without further setup. The value takes 128 KiB after the
/// first invalidation, for any number of keys.
///
/// See [`Caches`](super::Caches) for an example.
#[derive(Clone, Default)]
pub struct Invalidations {
    table: Arc<InvalidationTable>,
}

struct InvalidationTable {
    /// Distinguishes responses stored by this process from those of others.
    writer: u64,
    hasher: RandomState,
    /// The number of invalidations so far.
    sequence: AtomicU64,
    /// The longest time to live with which a layer stores responses, in milliseconds.
    longest_ttl: AtomicU64,
    started: Instant,
    entries: OnceLock<Box<[InvalidationEntry]>>,
}

/// The state of all keys with one hash.
#[derive(Default)]
struct InvalidationEntry {
    /// The sequence number of the last invalidation.
    sequence: AtomicU64,
    /// The time of the last invalidation, in milliseconds since 1970.
    at: AtomicU64,
    /// The number of deletions under way.
    pending: AtomicU32,
    /// After a lost deletion: until when the cache is not used, in milliseconds since `started`.
    unused_until: AtomicU64,
}

/// The hash of a key, as the index of its entry in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash(usize);

/// The origin of a cached response: the process that stored it and the time at which its request
/// began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseStamp {
    /// The id of the process, chosen at random.
    pub writer: u64,
    /// The writer's invalidation sequence number when the request began.
    pub sequence: u64,
    /// The time at which the request began, in milliseconds since 1970 by the writer's clock.
    pub requested_at: u64,
}

/// A deletion of a cached value that is under way.
///
/// Call [`succeeded`](Self::succeeded) once the cache has deleted the value. Until then the layer
/// does not use the cache for the key. A failed deletion may be retried for as long as this value
/// is kept. Dropping it marks the deletion as lost: the layer then does not use the cache for the
/// key during the longest time to live with which a layer stores responses.
///
/// See [`Caches`](super::Caches) for an example.
#[must_use = "dropping it keeps the key out of the cache"]
pub struct PendingInvalidation {
    table: Arc<InvalidationTable>,
    key: KeyHash,
    lost: bool,
}

impl Default for InvalidationTable {
    fn default() -> Self {
        let hasher = RandomState::new();
        Self {
            writer: hasher.hash_one("writer"),
            hasher,
            sequence: AtomicU64::new(0),
            longest_ttl: AtomicU64::new(0),
            started: Instant::now(),
            entries: OnceLock::new(),
        }
    }
}

impl InvalidationTable {
    /// Returns the entry of a key, or `None` before the first invalidation.
    fn entry(&self, key: KeyHash) -> Option<&InvalidationEntry> {
        self.entries.get()?.get(key.0)
    }

    /// Returns the entry of a key, and allocates the table if necessary.
    fn entry_or_init(&self, key: KeyHash) -> &InvalidationEntry {
        let new = || {
            (0..TABLE_ENTRIES)
                .map(|_| InvalidationEntry::default())
                .collect()
        };
        // `Invalidations::hash_key` returns indices below `TABLE_ENTRIES` only.
        &self.entries.get_or_init(new)[key.0]
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

impl Invalidations {
    /// Returns the invalidations that all clients of these Agents share.
    #[doc(hidden)]
    pub fn for_agents(mut addresses: Vec<String>) -> Self {
        // One table for each set of Agents that has a client.
        static TABLES: Mutex<Vec<(Vec<String>, Weak<InvalidationTable>)>> = Mutex::new(Vec::new());

        addresses
            .iter_mut()
            .for_each(|address| address.make_ascii_lowercase());
        addresses.sort();
        addresses.dedup();
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        tables.retain(|(_, table)| table.strong_count() > 0);
        let found = tables.iter().find(|(agents, _)| *agents == addresses);
        if let Some(table) = found.and_then(|(_, table)| table.upgrade()) {
            return Self { table };
        }
        let new = Self::default();
        tables.push((addresses, Arc::downgrade(&new.table)));
        new
    }

    #[doc(hidden)]
    pub fn hash_key(&self, key: &str) -> KeyHash {
        let hash = self.table.hasher.hash_one(key);
        // The remainder is below `TABLE_ENTRIES` and fits any `usize`.
        KeyHash((hash % TABLE_ENTRIES as u64) as usize)
    }

    /// Returns the number of invalidations so far. A request that begins now sees the changes
    /// behind all of them.
    #[doc(hidden)]
    pub fn sequence(&self) -> u64 {
        self.table.sequence.load(Ordering::Acquire)
    }

    /// Records a time to live with which a layer stores responses.
    #[doc(hidden)]
    pub fn record_ttl(&self, ttl: Duration) {
        let ttl = millis(ttl.min(MAX_TTL));
        if self.table.longest_ttl.load(Ordering::Relaxed) < ttl {
            self.table.longest_ttl.fetch_max(ttl, Ordering::Relaxed);
        }
    }

    #[doc(hidden)]
    pub fn stamp(&self, sequence: u64, requested_at: SystemTime) -> ResponseStamp {
        ResponseStamp {
            writer: self.table.writer,
            sequence,
            requested_at: unix_millis(requested_at),
        }
    }

    /// Returns whether the cache may be used for a key: no deletion is pending or lost.
    #[doc(hidden)]
    pub fn may_use(&self, key: KeyHash) -> bool {
        self.table.entry(key).is_none_or(|entry| {
            entry.pending.load(Ordering::Acquire) == 0
                && entry.unused_until.load(Ordering::Acquire) <= self.table.now()
        })
    }

    /// Returns whether a request that began at `sequence` may use the cache for a key: the cache
    /// [may be used](Self::may_use) and the key was not invalidated since.
    #[doc(hidden)]
    pub fn may_use_since(&self, key: KeyHash, sequence: u64) -> bool {
        let invalidated =
            |entry: &InvalidationEntry| entry.sequence.load(Ordering::Acquire) > sequence;
        !self.table.entry(key).is_some_and(invalidated) && self.may_use(key)
    }

    /// Returns whether a cached response is newer than the last invalidation of its key. Responses
    /// of other processes are compared by the clock, with an allowance for clock skew.
    #[doc(hidden)]
    pub fn is_newer(&self, key: KeyHash, stamp: ResponseStamp) -> bool {
        let Some(entry) = self.table.entry(key) else {
            return true;
        };
        let last = entry.sequence.load(Ordering::Acquire);
        if stamp.writer == self.table.writer {
            stamp.sequence >= last
        } else {
            let at = entry.at.load(Ordering::Acquire);
            last == 0 || stamp.requested_at > at.saturating_add(CLOCK_SKEW)
        }
    }

    /// Invalidates a key: the responses stored so far and those to requests under way.
    #[doc(hidden)]
    pub fn invalidate(&self, key: KeyHash) {
        let entry = self.table.entry_or_init(key);
        entry
            .at
            .fetch_max(unix_millis(SystemTime::now()), Ordering::AcqRel);
        let next = self.table.sequence.fetch_add(1, Ordering::AcqRel) + 1;
        entry.sequence.fetch_max(next, Ordering::AcqRel);
    }

    /// Blocks the use of the cache for a key until its deletion has succeeded.
    #[doc(hidden)]
    pub fn begin_deletion(&self, key: KeyHash) -> PendingInvalidation {
        let entry = self.table.entry_or_init(key);
        entry.pending.fetch_add(1, Ordering::AcqRel);
        PendingInvalidation {
            table: Arc::clone(&self.table),
            key,
            lost: true,
        }
    }
}

impl fmt::Debug for Invalidations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidations")
            .field("sequence", &self.table.sequence)
            .finish_non_exhaustive()
    }
}

impl PendingInvalidation {
    /// Records that the cache has deleted the value: values stored from now on may be used.
    pub fn succeeded(mut self) {
        self.lost = false;
    }
}

impl Drop for PendingInvalidation {
    fn drop(&mut self) {
        let entry = self.table.entry_or_init(self.key);
        if self.lost {
            let longest_ttl = self.table.longest_ttl.load(Ordering::Relaxed);
            let until = self.table.now().saturating_add(longest_ttl);
            entry.unused_until.fetch_max(until, Ordering::AcqRel);
        }
        entry.pending.fetch_sub(1, Ordering::AcqRel);
    }
}

impl fmt::Debug for PendingInvalidation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingInvalidation")
            .finish_non_exhaustive()
    }
}

fn unix_millis(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_request_that_began_before_the_invalidation_may_neither_serve_nor_store() {
        let keys = Invalidations::default();
        let key = keys.hash_key("/a");
        let before = keys.sequence();
        let old = keys.stamp(before, SystemTime::now());
        assert!(keys.may_use_since(key, before) && keys.is_newer(key, old));
        keys.invalidate(key);
        assert!(!keys.may_use_since(key, before) && !keys.is_newer(key, old));
        let after = keys.sequence();
        assert!(keys.may_use_since(key, after));
        assert!(keys.is_newer(key, keys.stamp(after, SystemTime::now())));
    }

    #[test]
    fn the_cache_is_not_used_until_each_deletion_has_succeeded() {
        let keys = Invalidations::default();
        let key = keys.hash_key("/a");
        let deletions = [keys.begin_deletion(key), keys.begin_deletion(key)];
        for deletion in deletions {
            assert!(!keys.may_use(key));
            deletion.succeeded();
        }
        assert!(keys.may_use(key));
    }

    #[test]
    fn a_lost_deletion_keeps_the_key_out_of_the_cache_for_the_longest_time_to_live() {
        let keys = Invalidations::default();
        let key = keys.hash_key("/a");
        drop(keys.begin_deletion(key));
        assert!(keys.may_use(key), "no response was ever stored");
        keys.record_ttl(HOUR);
        keys.record_ttl(Duration::from_secs(1));
        drop(keys.begin_deletion(key));
        assert!(!keys.may_use(key));
        let entry = keys.table.entry_or_init(key);
        let until = entry.unused_until.load(Ordering::Relaxed);
        assert!(until >= millis(HOUR));
        keys.begin_deletion(key).succeeded();
        assert!(!keys.may_use(key), "another one is still lost");
    }

    #[test]
    fn responses_of_other_processes_are_compared_by_the_clock() {
        let keys = Invalidations::default();
        let key = keys.hash_key("/a");
        let stamp = |requested_at| ResponseStamp {
            writer: !keys.table.writer,
            sequence: u64::MAX,
            requested_at,
        };
        assert!(keys.is_newer(key, stamp(0)), "never invalidated");
        keys.invalidate(key);
        let now = unix_millis(SystemTime::now());
        assert!(!keys.is_newer(key, stamp(now - 1)));
        assert!(!keys.is_newer(key, stamp(now)));
        assert!(keys.is_newer(key, stamp(now + 60_000)));
    }

    #[test]
    fn the_longest_time_to_live_is_bounded() {
        let keys = Invalidations::default();
        keys.record_ttl(Duration::MAX);
        assert_eq!(
            keys.table.longest_ttl.load(Ordering::Relaxed),
            millis(MAX_TTL)
        );
    }
}
