//! Chooses the key of a full shard that is evicted for a new one: the one that loses least.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::clock::Nanos;

/// How many keys are examined for one that loses nothing, before the best of them is evicted.
const MAX_EXAMINED: usize = 8;
/// A rescan of this many keys costs as much as one eviction.
const RESCANNED_KEYS_PER_EVICTION: usize = 8;
/// Rescanning this many keys is cheap enough for every eviction.
const CHEAP_RESCAN_KEYS: usize = 256;

/// What a key loses if its state is removed. The key with the smallest loss is evicted first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct EvictionLoss {
    /// When the key has nothing to lose without any further use; `Nanos::MIN` for now, `Nanos::MAX`
    /// if that is unknown.
    pub(crate) restored_at: Nanos,
    /// The tokens that it has spent, or holds.
    pub(crate) tokens: f64,
    /// The last use. Among equals, the key that was idle the longest is evicted first.
    pub(crate) last_used: Nanos,
}

impl EvictionLoss {
    /// The loss of a state that equals a new one.
    pub(crate) const fn none(last_used: Nanos) -> Self {
        Self {
            restored_at: Nanos::MIN,
            tokens: 0.0,
            last_used,
        }
    }

    pub(crate) fn is_none(&self) -> bool {
        self.restored_at == Nanos::MIN
    }

    /// The loss of a state that must not be evicted while the shard has any other.
    pub(crate) const fn all(last_used: Nanos) -> Self {
        Self {
            restored_at: Nanos::MAX,
            tokens: f64::INFINITY,
            last_used,
        }
    }
}

impl Eq for EvictionLoss {}

impl Ord for EvictionLoss {
    fn cmp(&self, other: &Self) -> Ordering {
        self.restored_at
            .cmp(&other.restored_at)
            .then_with(|| self.tokens.total_cmp(&other.tokens))
            .then_with(|| self.last_used.cmp(&other.last_used))
    }
}

impl PartialOrd for EvictionLoss {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The keys of a shard, ordered by their loss when they were last examined, identified by their
/// hashes.
///
/// It is created when a shard is full for the first time, and takes 32 bytes per key. A use of a
/// key changes nothing here and so costs nothing. A key whose loss has grown is found when its turn
/// comes, and is put back. A key whose loss has shrunk is found at the next rescan of all keys,
/// which comes after enough evictions to pay for it.
#[derive(Debug, Default)]
pub(crate) struct EvictionQueue {
    by_loss: BinaryHeap<Reverse<(EvictionLoss, u64)>>,
    /// Keys added since the last eviction. They had no state to examine then.
    added: Vec<u64>,
    /// Evictions since the last rescan.
    evictions_since_rescan: usize,
}

impl EvictionQueue {
    /// Records that a key was added to a shard that may be full.
    pub(crate) fn added(&mut self, hash: u64) {
        if !self.by_loss.is_empty() {
            self.added.push(hash);
        }
    }

    /// Drops all entries, because the shard is far from full.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns the hash of the key to evict, of `count` keys. `examine` returns the current loss of
    /// a key, or `None` if the key is gone.
    pub(crate) fn choose<A: Iterator<Item = (EvictionLoss, u64)>>(
        &mut self,
        count: usize,
        all: impl Fn() -> A,
        examine: impl Fn(u64) -> Option<EvictionLoss>,
    ) -> Option<u64> {
        // Keys that were removed otherwise leave entries behind; allow as many as there are keys.
        let mut rescanned = self.by_loss.is_empty() || self.by_loss.len() > 2 * count;
        if rescanned {
            self.rescan(all());
        }
        for hash in std::mem::take(&mut self.added) {
            if let Some(loss) = examine(hash) {
                self.by_loss.push(Reverse((loss, hash)));
            }
        }
        self.evictions_since_rescan = self.evictions_since_rescan.saturating_add(1);
        loop {
            let best = self.pop_least(&examine);
            let pays = self
                .evictions_since_rescan
                .saturating_mul(RESCANNED_KEYS_PER_EVICTION)
                >= count.saturating_sub(CHEAP_RESCAN_KEYS);
            match best {
                Some((loss, _)) if loss.is_none() || rescanned || !pays => {}
                None => return None,
                Some(_) => {
                    rescanned = true;
                    self.rescan(all());
                    continue;
                }
            }
            return best.map(|(_, hash)| hash);
        }
    }

    fn rescan(&mut self, all: impl Iterator<Item = (EvictionLoss, u64)>) {
        self.evictions_since_rescan = 0;
        self.added.clear();
        self.by_loss = all.map(Reverse).collect();
    }

    /// Removes and returns the entry of the key that loses least, among the first [`MAX_EXAMINED`].
    fn pop_least(
        &mut self,
        examine: impl Fn(u64) -> Option<EvictionLoss>,
    ) -> Option<(EvictionLoss, u64)> {
        let mut best: Option<(EvictionLoss, u64)> = None;
        let mut examined = 0;
        while examined < MAX_EXAMINED
            && let Some(Reverse((_, hash))) = self.by_loss.pop()
        {
            let Some(loss) = examine(hash) else {
                continue;
            };
            examined += 1;
            let better = best.is_none_or(|(least, _)| loss < least);
            let other = match better {
                true => best.replace((loss, hash)),
                false => Some((loss, hash)),
            };
            self.by_loss.extend(other.map(Reverse));
            if loss.is_none() {
                break;
            }
        }
        best
    }
}
