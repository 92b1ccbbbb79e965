//! Invalidated cache keys: which stored responses this process must not use any more.
//!
//! Invalidations are kept in a table of fixed size, indexed by a hash of the key. Keys that share
//! an entry of the table are treated alike: an unrelated key may lose a stored response, and a
//! response that was invalidated is never used.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
#[cfg(feature = "remote")]
use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Entries of the table: 128 KiB, allocated by the first invalidation.
const SLOTS: usize = 4096;

/// Caches keep nothing for longer than seven days.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How far the clocks of two processes that share a cache may differ, in milliseconds.
const CLOCK_SKEW: u64 = 1000;

/// The keys that requests of this process have invalidated.
///
/// A response that was stored before a key was invalidated is neither served nor stored
/// afterwards, and until the cache has deleted the key, the layer does not use the cache for it.
///
/// Deciders that reach the same caches should share one, because they see each other's
/// invalidations only through it; clones are the same one. The clients of an Agent and of an
/// embedded engine do so by themselves. It takes 128 KiB once something was invalidated, however
/// many keys there are.
///
/// See [`Caches`](super::Caches) for an example.
#[derive(Clone, Default)]
pub struct Invalidations {
    shared: Arc<Shared>,
}

struct Shared {
    /// Distinguishes responses stored by this process from those of others.
    writer: u64,
    hasher: RandomState,
    /// How many invalidations there were.
    sequence: AtomicU64,
    /// The longest time to live that a layer asked for, in milliseconds.
    longest: AtomicU64,
    started: Instant,
    slots: OnceLock<Box<[SlotState]>>,
}

/// What is known of all keys with one hash.
#[derive(Default)]
struct SlotState {
    /// The sequence number of the last invalidation.
    sequence: AtomicU64,
    /// When that was, in milliseconds since 1970.
    at: AtomicU64,
    /// Deletions under way.
    pending: AtomicU32,
    /// After a lost deletion: until when the cache is not used, in milliseconds since the start.
    unused_until: AtomicU64,
}

/// The place of a key in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(usize);

/// Who stored a response, and when its request began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) writer: u64,
    /// The invalidations of the writer before that.
    pub(crate) sequence: u64,
    /// In milliseconds since 1970, by the writer's clock.
    pub(crate) asked_at: u64,
}

/// A cached value that has to be deleted.
///
/// Call [`succeeded`](Self::succeeded) when it was. Until then the layer does not use the cache
/// for the key. A deletion that failed may be tried again for as long as this is kept. Dropping it
/// says that the deletion is lost: the key then stays unused for the longest time to live that a
/// layer has asked for.
///
/// See [`Caches`](super::Caches) for an example.
#[must_use = "dropping it keeps the key out of the cache"]
pub struct PendingInvalidation {
    shared: Arc<Shared>,
    slot: Slot,
    lost: bool,
}

// === impl Shared ===

impl Default for Shared {
    fn default() -> Self {
        let hasher = RandomState::new();
        Self {
            writer: hasher.hash_one("writer"),
            hasher,
            sequence: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            started: Instant::now(),
            slots: OnceLock::new(),
        }
    }
}

impl Shared {
    /// `None` before the first invalidation.
    fn known(&self, slot: Slot) -> Option<&SlotState> {
        self.slots.get()?.get(slot.0)
    }

    fn state(&self, slot: Slot) -> &SlotState {
        let new = || (0..SLOTS).map(|_| SlotState::default()).collect();
        // Slots are made below `SLOTS`.
        &self.slots.get_or_init(new)[slot.0]
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

// === impl Invalidations ===

#[cfg_attr(not(feature = "response-cache"), allow(dead_code))]
impl Invalidations {
    /// Returns the invalidations that all clients of these Agents share.
    #[cfg(feature = "remote")]
    pub(crate) fn of_agents(mut addresses: Vec<String>) -> Self {
        // One for each set of Agents that a client is alive for.
        static KNOWN: Mutex<Vec<(Vec<String>, Weak<Shared>)>> = Mutex::new(Vec::new());

        addresses
            .iter_mut()
            .for_each(|address| address.make_ascii_lowercase());
        addresses.sort();
        addresses.dedup();
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, shared)| shared.strong_count() > 0);
        let found = known.iter().find(|(known, _)| *known == addresses);
        if let Some(shared) = found.and_then(|(_, shared)| shared.upgrade()) {
            return Self { shared };
        }
        let new = Self::default();
        known.push((addresses, Arc::downgrade(&new.shared)));
        new
    }

    pub(crate) fn slot(&self, key: &str) -> Slot {
        let hash = self.shared.hasher.hash_one(key);
        // The remainder is below `SLOTS`, whatever the width of `usize`.
        Slot((hash % SLOTS as u64) as usize)
    }

    /// The number of invalidations so far. A request that begins now sees what they changed.
    pub(crate) fn sequence(&self) -> u64 {
        self.shared.sequence.load(Ordering::Acquire)
    }

    /// Notes how long responses are stored.
    pub(crate) fn note_ttl(&self, ttl: Duration) {
        let ttl = millis(ttl.min(LONGEST));
        if self.shared.longest.load(Ordering::Relaxed) < ttl {
            self.shared.longest.fetch_max(ttl, Ordering::Relaxed);
        }
    }

    pub(crate) fn stamp(&self, sequence: u64, asked_at: SystemTime) -> Stamp {
        Stamp {
            writer: self.shared.writer,
            sequence,
            asked_at: unix_millis(asked_at),
        }
    }

    /// Whether the cache may be used for a key: no deletion is outstanding or lost.
    pub(crate) fn may_use(&self, slot: Slot) -> bool {
        self.shared.known(slot).is_none_or(|state| {
            state.pending.load(Ordering::Acquire) == 0
                && state.unused_until.load(Ordering::Acquire) <= self.shared.now()
        })
    }

    /// Whether the cache may be used for a key by a request that began at `sequence`: it
    /// [may be used](Self::may_use) and was not invalidated since.
    pub(crate) fn may_use_since(&self, slot: Slot, sequence: u64) -> bool {
        let invalidated = |state: &SlotState| state.sequence.load(Ordering::Acquire) > sequence;
        !self.shared.known(slot).is_some_and(invalidated) && self.may_use(slot)
    }

    /// Whether a stored response is newer than the last invalidation of its key. Responses of
    /// other processes are compared by the clock.
    pub(crate) fn is_newer(&self, slot: Slot, stamp: Stamp) -> bool {
        let Some(state) = self.shared.known(slot) else {
            return true;
        };
        let last = state.sequence.load(Ordering::Acquire);
        if stamp.writer == self.shared.writer {
            stamp.sequence >= last
        } else {
            let at = state.at.load(Ordering::Acquire);
            last == 0 || stamp.asked_at > at.saturating_add(CLOCK_SKEW)
        }
    }

    /// Responses stored so far are out of date, and those to requests under way.
    pub(crate) fn invalidate(&self, slot: Slot) {
        let state = self.shared.state(slot);
        state
            .at
            .fetch_max(unix_millis(SystemTime::now()), Ordering::AcqRel);
        let next = self.shared.sequence.fetch_add(1, Ordering::AcqRel) + 1;
        state.sequence.fetch_max(next, Ordering::AcqRel);
    }

    /// Keeps the cache from being used for a key until its deletion has succeeded.
    pub(crate) fn begin_deletion(&self, slot: Slot) -> PendingInvalidation {
        let state = self.shared.state(slot);
        state.pending.fetch_add(1, Ordering::AcqRel);
        PendingInvalidation {
            shared: Arc::clone(&self.shared),
            slot,
            lost: true,
        }
    }
}

impl fmt::Debug for Invalidations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidations")
            .field("sequence", &self.shared.sequence)
            .finish_non_exhaustive()
    }
}

// === impl PendingInvalidation ===

impl PendingInvalidation {
    /// The cache has deleted the value: what is stored from now on may be used.
    pub fn succeeded(mut self) {
        self.lost = false;
    }
}

impl Drop for PendingInvalidation {
    fn drop(&mut self) {
        let state = self.shared.state(self.slot);
        if self.lost {
            let longest = self.shared.longest.load(Ordering::Relaxed);
            let until = self.shared.now().saturating_add(longest);
            state.unused_until.fetch_max(until, Ordering::AcqRel);
        }
        state.pending.fetch_sub(1, Ordering::AcqRel);
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

#[cfg(all(test, feature = "response-cache"))]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_request_that_began_before_the_invalidation_may_neither_serve_nor_store() {
        let keys = Invalidations::default();
        let slot = keys.slot("/a");
        let before = keys.sequence();
        let old = keys.stamp(before, SystemTime::now());
        assert!(keys.may_use_since(slot, before) && keys.is_newer(slot, old));
        keys.invalidate(slot);
        assert!(!keys.may_use_since(slot, before) && !keys.is_newer(slot, old));
        let after = keys.sequence();
        assert!(keys.may_use_since(slot, after));
        assert!(keys.is_newer(slot, keys.stamp(after, SystemTime::now())));
    }

    #[test]
    fn the_cache_is_not_used_until_each_deletion_has_succeeded() {
        let keys = Invalidations::default();
        let slot = keys.slot("/a");
        let deletions = [keys.begin_deletion(slot), keys.begin_deletion(slot)];
        for deletion in deletions {
            assert!(!keys.may_use(slot));
            deletion.succeeded();
        }
        assert!(keys.may_use(slot));
    }

    #[test]
    fn a_lost_deletion_keeps_the_key_out_of_the_cache_for_the_longest_time_to_live() {
        let keys = Invalidations::default();
        let slot = keys.slot("/a");
        drop(keys.begin_deletion(slot));
        assert!(keys.may_use(slot), "nothing was ever stored");
        keys.note_ttl(HOUR);
        keys.note_ttl(Duration::from_secs(1));
        drop(keys.begin_deletion(slot));
        assert!(!keys.may_use(slot));
        let until = keys.shared.state(slot).unused_until.load(Ordering::Relaxed);
        assert!(until >= millis(HOUR));
        keys.begin_deletion(slot).succeeded();
        assert!(!keys.may_use(slot), "another one is still lost");
    }

    #[test]
    fn responses_of_other_processes_are_compared_by_the_clock() {
        let keys = Invalidations::default();
        let slot = keys.slot("/a");
        let stamp = |asked_at| Stamp {
            writer: !keys.shared.writer,
            sequence: u64::MAX,
            asked_at,
        };
        assert!(keys.is_newer(slot, stamp(0)), "never invalidated");
        keys.invalidate(slot);
        let now = unix_millis(SystemTime::now());
        assert!(!keys.is_newer(slot, stamp(now - 1)));
        assert!(!keys.is_newer(slot, stamp(now)));
        assert!(keys.is_newer(slot, stamp(now + 60_000)));
    }

    #[test]
    fn the_longest_time_to_live_is_bounded() {
        let keys = Invalidations::default();
        keys.note_ttl(Duration::MAX);
        assert_eq!(keys.shared.longest.load(Ordering::Relaxed), millis(LONGEST));
    }
}
