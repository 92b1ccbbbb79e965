//! Tests of the bound, the expiry and the eviction of a store.

use super::*;

struct Count {
    uses: u32,
    last_used: Nanos,
}

impl StoredState for Count {
    type Rules = ();

    fn new() -> Self {
        Self {
            uses: 0,
            last_used: Nanos::MIN,
        }
    }

    fn expires_at(&self, max_idle: Nanos) -> Nanos {
        self.last_used.saturating_add(max_idle)
    }

    /// Each use counts, and no time restores it.
    fn eviction_loss(&self, (): &(), _: Nanos) -> EvictionLoss {
        EvictionLoss {
            restored_at: Nanos::MAX,
            tokens: f64::from(self.uses),
            last_used: self.last_used,
        }
    }
}

fn store(keys: usize, shards: usize) -> Store<Count> {
    Store::new(StoreLimits {
        keys,
        shards,
        max_idle: 100,
    })
}

fn touch(store: &Store<Count>, key: &str, now: Nanos) -> u32 {
    store.update(key, now, &(), |count| {
        count.uses += 1;
        count.last_used = now;
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
fn traffic_on_one_key_sweeps_idle_keys_and_releases_memory() {
    let store = store(1 << 20, 8);
    for key in 0..20_000 {
        touch(&store, &key.to_string(), 0);
    }
    let before: usize = buckets(&store);
    for _ in 0..200_000 {
        touch(&store, "busy", 100);
    }
    assert_eq!(store.len(), 1);
    assert_eq!(store.evicted(), 0);
    assert!(buckets(&store) < before / 10);
}

#[test]
fn long_keys_are_stored_as_hashes_and_stay_distinct() {
    let store = store(1 << 20, 4);
    let long = |end: &str| "x".repeat(1 << 20) + end;
    for end in ["a", "b"] {
        assert_eq!(touch(&store, &long(end), 0), 1);
        assert_eq!(touch(&store, &long(end), 0), 2);
    }
    assert_eq!(store.peek(&long("b"), |count| count.uses), Some(2));
    let kept = |shard: &PaddedShard<Count>| {
        let shard = lock(&shard.0);
        let bytes: usize = shard.table.iter().map(|entry| entry.key.len()).sum();
        bytes
    };
    let bytes: usize = store.shards.iter().map(kept).sum();
    assert!(bytes < 2 * MAX_KEY_BYTES, "{bytes}");
}

fn buckets(store: &Store<Count>) -> usize {
    store
        .shards
        .iter()
        .map(|shard| lock(&shard.0).table.num_buckets())
        .sum()
}

#[test]
fn a_full_store_evicts_the_key_that_loses_least_and_of_equals_the_idlest() {
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
fn a_flood_evicts_no_key_that_loses_more_in_any_shard() {
    // The busy keys are most of one shard, and few keys of many shards.
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
fn a_key_whose_loss_has_grown_since_it_was_examined_stays() {
    let store = store(16, 1);
    for key in 0..17 {
        touch(&store, &key.to_string(), key);
    }
    // Most of these have been examined by an eviction, each with one use.
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
fn a_poisoned_lock_does_not_panic() {
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
