//! A bounded set for what is said once: lock-free, and without an allocation once it exists.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Values that are remembered at most.
pub(crate) const MOST: usize = 1024;

/// Twice as many places as values, so that a search is short.
const PLACES: usize = 2 * MOST;
/// Places that are looked at for one value.
const SEARCH: usize = 16;

/// Remembers up to [`MOST`] values by their hashes. A value beyond that is never new, and so is one
/// of a few that share the places of others: something is said once less then, and never twice.
#[derive(Debug, Default)]
pub(crate) struct FirstSeen {
    hasher: RandomState,
    /// Zero is free. Made with the first value: most clients and engines need none.
    places: OnceLock<Box<[AtomicU64]>>,
    count: AtomicUsize,
}

impl FirstSeen {
    /// Whether the value is seen for the first time; exactly one of several threads hears that.
    pub(crate) fn is_new(&self, value: impl Hash) -> bool {
        let hash = self.hasher.hash_one(value).max(1);
        let places = self
            .places
            .get_or_init(|| (0..PLACES).map(|_| AtomicU64::new(0)).collect());
        let start = hash as usize % PLACES;
        for at in (start..start + SEARCH).map(|at| at % PLACES) {
            let mut known = places[at].load(Relaxed);
            if known == 0 {
                if self.is_full() {
                    return false;
                }
                match places[at].compare_exchange(0, hash, Relaxed, Relaxed) {
                    Ok(_) => {
                        self.count.fetch_add(1, Relaxed);
                        return true;
                    }
                    Err(other) => known = other,
                }
            }
            if known == hash {
                return false;
            }
        }
        false
    }

    /// No value is new any more.
    pub(crate) fn is_full(&self) -> bool {
        self.count.load(Relaxed) >= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_new_once() {
        let seen = FirstSeen::default();
        assert!(seen.is_new("a") && seen.is_new("b"));
        assert!(!seen.is_new("a") && !seen.is_new("b"));
    }

    #[test]
    fn of_many_threads_one_hears_that_a_value_is_new() {
        let seen = FirstSeen::default();
        let count = || (0..100).filter(|value| seen.is_new(value)).count();
        let total: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .sum()
        });
        assert_eq!(total, 100);
    }

    #[test]
    fn a_flood_is_bounded_and_what_is_known_stays_known() {
        let seen = FirstSeen::default();
        let new = (0..100_000).filter(|value| seen.is_new(value)).count();
        assert!((MOST / 2..=MOST).contains(&new), "{new}");
        assert!(!seen.is_new(0), "known");
        assert!(!seen.is_new("another"), "full");
    }
}
