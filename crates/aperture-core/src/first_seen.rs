//! A bounded, lock-free set of values seen, for warnings that are logged once per value.

use std::hash::Hash;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use ahash::RandomState;

/// The most values that a set remembers.
pub const MAX_VALUES: usize = 1024;

/// The size of the hash table: twice the number of values, to keep searches short.
const TABLE_SIZE: usize = 2 * MAX_VALUES;
/// The most cells that a search for one value visits.
const MAX_SEARCH: usize = 16;

/// Remembers up to [`MAX_VALUES`] values by their hashes. Further values are never new, and neither
/// are the few whose cells are all taken, so a warning may be missing but never appears twice.
///
/// The table is allocated with the first value; no other call allocates.
#[derive(Debug, Default)]
pub struct FirstSeen {
    hasher: RandomState,
    /// The table of hashes, in which zero is a free cell. Allocated with the first value, because
    /// most clients and engines need none.
    cells: OnceLock<Box<[AtomicU64]>>,
    count: AtomicUsize,
}

impl FirstSeen {
    /// Returns `true` if the value is seen for the first time; of several threads, exactly one gets
    /// `true`.
    pub fn is_new(&self, value: impl Hash) -> bool {
        let hash = self.hasher.hash_one(value).max(1);
        let cells = self
            .cells
            .get_or_init(|| (0..TABLE_SIZE).map(|_| AtomicU64::new(0)).collect());
        let start = hash as usize % TABLE_SIZE;
        for at in (start..start + MAX_SEARCH).map(|at| at % TABLE_SIZE) {
            let mut known = cells[at].load(Relaxed);
            if known == 0 {
                if self.is_full() {
                    return false;
                }
                match cells[at].compare_exchange(0, hash, Relaxed, Relaxed) {
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

    /// Returns whether the set is full: no further value is new.
    pub fn is_full(&self) -> bool {
        self.count.load(Relaxed) >= MAX_VALUES
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
    fn one_of_many_threads_sees_a_value_as_new() {
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
    fn the_set_is_bounded_and_keeps_its_values() {
        let seen = FirstSeen::default();
        let new = (0..100_000).filter(|value| seen.is_new(value)).count();
        assert!((MAX_VALUES / 2..=MAX_VALUES).contains(&new), "{new}");
        assert!(!seen.is_new(0), "known");
        assert!(!seen.is_new("another"), "full");
    }
}
