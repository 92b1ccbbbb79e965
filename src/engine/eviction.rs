//! Which key of a full shard makes room for a new one: the one that loses least.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::clock::Nanos;

/// Keys examined for one that loses nothing, before the best of them goes.
const EXAMINED: usize = 8;
/// Looking at a key costs as much as making room does for so many.
const SHARE: usize = 8;
/// Keys that cost little to look at each time.
const FEW: usize = 256;

/// What a key loses when its state is forgotten. Less is what goes first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Loss {
    /// When it loses nothing anyway, if that is known and comes by itself.
    pub(crate) until: Nanos,
    /// Tokens that it has spent, or holds.
    pub(crate) tokens: f64,
    /// The last use: of equals, the one that idled for longest goes first.
    pub(crate) used: Nanos,
}

impl Loss {
    /// Of a state that is as good as a new one.
    pub(crate) const fn none(used: Nanos) -> Self {
        Self {
            until: Nanos::MIN,
            tokens: 0.0,
            used,
        }
    }

    pub(crate) fn is_none(&self) -> bool {
        self.until == Nanos::MIN
    }

    /// Of a state that must not go while there is any other.
    pub(crate) const fn all(used: Nanos) -> Self {
        Self {
            until: Nanos::MAX,
            tokens: f64::INFINITY,
            used,
        }
    }
}

impl Eq for Loss {}

impl Ord for Loss {
    fn cmp(&self, other: &Self) -> Ordering {
        self.until
            .cmp(&other.until)
            .then_with(|| self.tokens.total_cmp(&other.tokens))
            .then_with(|| self.used.cmp(&other.used))
    }
}

impl PartialOrd for Loss {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The keys of a shard, by what they lost when they were looked at last; keys are known by their
/// hashes.
///
/// It is made when a shard is full for the first time, because only then is it needed, and takes 32
/// bytes a key. A use of a key changes nothing here, so it costs nothing. A key that has come to
/// lose more is found out when its turn comes, and put back; one that has come to lose less, when
/// all are looked at anew, after as many rooms were made as pay for that.
#[derive(Debug, Default)]
pub(crate) struct Victims {
    by_loss: BinaryHeap<Reverse<(Loss, u64)>>,
    /// Keys that were added since room was made last; they had no state to look at then.
    added: Vec<u64>,
    /// Rooms made since all keys were looked at.
    made: usize,
}

impl Victims {
    /// A key was added to a shard that may be full.
    pub(crate) fn added(&mut self, hash: u64) {
        if !self.by_loss.is_empty() {
            self.added.push(hash);
        }
    }

    /// Forgets everything: the shard is far from full.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The key that is to go, of so many that there are; `look` says what one loses now, or that it
    /// is gone.
    pub(crate) fn choose<A: Iterator<Item = (Loss, u64)>>(
        &mut self,
        count: usize,
        all: impl Fn() -> A,
        look: impl Fn(u64) -> Option<Loss>,
    ) -> Option<u64> {
        // Keys that went otherwise leave entries behind: no more than keys that there are.
        let mut fresh = self.by_loss.is_empty() || self.by_loss.len() > 2 * count;
        if fresh {
            self.look_at(all());
        }
        for hash in std::mem::take(&mut self.added) {
            if let Some(loss) = look(hash) {
                self.by_loss.push(Reverse((loss, hash)));
            }
        }
        self.made = self.made.saturating_add(1);
        loop {
            let best = self.least(&look);
            let pays = self.made.saturating_mul(SHARE) >= count.saturating_sub(FEW);
            match best {
                Some((loss, _)) if loss.is_none() || fresh || !pays => {}
                None => return None,
                Some(_) => {
                    fresh = true;
                    self.look_at(all());
                    continue;
                }
            }
            return best.map(|(_, hash)| hash);
        }
    }

    fn look_at(&mut self, all: impl Iterator<Item = (Loss, u64)>) {
        self.made = 0;
        self.added.clear();
        self.by_loss = all.map(Reverse).collect();
    }

    /// Takes out the key that loses least, of those that may.
    fn least(&mut self, look: impl Fn(u64) -> Option<Loss>) -> Option<(Loss, u64)> {
        let mut best: Option<(Loss, u64)> = None;
        let mut examined = 0;
        while examined < EXAMINED
            && let Some(Reverse((_, hash))) = self.by_loss.pop()
        {
            let Some(loss) = look(hash) else {
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
