//! Keys: created once, removed when they are no longer used, and not before.

use super::*;
use crate::engine::clock::Nanos;
use crate::engine::eviction::EvictionLoss;
use crate::engine::store::{Store, StoreLimits, StoredState};

/// A key that is in use while it has takers.
struct CountedKey {
    uses: u32,
    takers: u32,
    last_used: Nanos,
}

impl StoredState for CountedKey {
    type Rules = ();

    fn new() -> Self {
        Self {
            uses: 0,
            takers: 0,
            last_used: Nanos::MIN,
        }
    }

    fn expires_at(&self, max_idle: Nanos) -> Nanos {
        match self.takers {
            0 => self.last_used.saturating_add(max_idle),
            _ => Nanos::MAX,
        }
    }

    /// A key in use loses more than any other.
    fn eviction_loss(&self, (): &(), _: Nanos) -> EvictionLoss {
        EvictionLoss {
            restored_at: Nanos::MAX,
            tokens: f64::from(self.takers),
            last_used: self.last_used,
        }
    }
}

fn store(keys: usize, shards: usize) -> Arc<Store<CountedKey>> {
    Arc::new(Store::new(StoreLimits {
        keys,
        shards,
        max_idle: 100,
    }))
}

fn touch(store: &Store<CountedKey>, key: &str, now: Nanos) -> u32 {
    store.update(key, now, &(), |entry| {
        entry.uses += 1;
        entry.last_used = now.max(entry.last_used);
        entry.uses
    })
}

#[test]
fn concurrent_first_uses_create_a_key_once() {
    explore(|| {
        let store = store(16, 1);
        let shared = Arc::clone(&store);
        let mut uses =
            run_threads(3, move |_| [0, 0].map(|now| touch(&shared, "key", now))).concat();
        uses.sort_unstable();
        assert_eq!(uses, [1, 2, 3, 4, 5, 6]);
        assert_eq!(store.len(), 1);
    });
}

/// Uses the store often enough to sweep every shard, at a much later time.
fn sweep(store: &Store<CountedKey>) {
    for _ in 0..5 * 32 {
        touch(store, "busy", 1000);
    }
}

#[test]
fn sweeping_removes_idle_keys_and_keeps_those_in_use() {
    explore(|| {
        let store = store(1 << 13, 4);
        for key in 0..8 {
            touch(&store, &format!("idle {key}"), 0);
        }
        let shared = Arc::clone(&store);
        run_threads(3, move |at| {
            let (store, own) = (&*shared, format!("own {at}"));
            store.update(&own, 0, &(), |entry| {
                (entry.takers, entry.last_used) = (1, 0);
            });
            sweep(store);
            let takers = store.update(&own, 1000, &(), |entry| {
                entry.last_used = 1000;
                std::mem::take(&mut entry.takers)
            });
            assert_eq!(takers, 1, "it was removed while it was in use");
        });
        // A sweep skips a shard that another thread has locked, so sweep again.
        sweep(&store);
        assert_eq!((store.len(), store.evicted()), (4, 0));
    });
}

#[test]
fn a_flood_from_all_threads_never_exceeds_the_bound() {
    explore(|| {
        let store = store(3, 1);
        let shared = Arc::clone(&store);
        run_threads(3, move |at| {
            for key in 0..4 {
                touch(&shared, &format!("{at} {key}"), key);
                assert!(shared.len() <= 3);
            }
        });
        assert_eq!((store.len(), store.evicted()), (3, 9));
    });
}
