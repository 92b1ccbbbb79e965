//! Keys: made once, forgotten when nobody uses them, and not before.

use super::*;
use crate::engine::clock::Nanos;
use crate::engine::eviction::Loss;
use crate::engine::store::{Kept, Limits, Store};

/// A key that is in use until the last one who took it has let go of it.
struct Entry {
    uses: u32,
    takers: u32,
    used: Nanos,
}

impl Kept for Entry {
    type Rules = ();

    fn new() -> Self {
        Self {
            uses: 0,
            takers: 0,
            used: Nanos::MIN,
        }
    }

    fn forget_at(&self, max_idle: Nanos) -> Nanos {
        match self.takers {
            0 => self.used.saturating_add(max_idle),
            _ => Nanos::MAX,
        }
    }

    /// A key in use loses more than any that is not.
    fn loss(&self, (): &(), _: Nanos) -> Loss {
        Loss {
            until: Nanos::MAX,
            tokens: f64::from(self.takers),
            used: self.used,
        }
    }
}

fn store(keys: usize, shards: usize) -> Arc<Store<Entry>> {
    Arc::new(Store::new(Limits {
        keys,
        shards,
        max_idle: 100,
    }))
}

fn touch(store: &Store<Entry>, key: &str, now: Nanos) -> u32 {
    store.update(key, now, &(), |entry| {
        entry.uses += 1;
        entry.used = now.max(entry.used);
        entry.uses
    })
}

#[test]
fn a_key_is_made_once_by_those_who_use_it_first() {
    explore(|| {
        let store = store(16, 1);
        let shared = Arc::clone(&store);
        let mut uses = together(3, move |_| [0, 0].map(|now| touch(&shared, "key", now))).concat();
        uses.sort_unstable();
        assert_eq!(uses, [1, 2, 3, 4, 5, 6]);
        assert_eq!(store.len(), 1);
    });
}

/// Turns enough to look at every shard, much later.
fn sweep(store: &Store<Entry>) {
    for _ in 0..5 * 32 {
        touch(store, "busy", 1000);
    }
}

#[test]
fn sweeping_takes_idle_keys_and_none_in_use() {
    explore(|| {
        let store = store(1 << 13, 4);
        for key in 0..8 {
            touch(&store, &format!("idle {key}"), 0);
        }
        let shared = Arc::clone(&store);
        together(3, move |at| {
            let (store, own) = (&*shared, format!("own {at}"));
            store.update(&own, 0, &(), |entry| {
                (entry.takers, entry.used) = (1, 0);
            });
            sweep(store);
            let takers = store.update(&own, 1000, &(), |entry| {
                entry.used = 1000;
                std::mem::take(&mut entry.takers)
            });
            assert_eq!(takers, 1, "it was forgotten while it was in use");
        });
        // Who met another one in a shard left it alone.
        sweep(&store);
        assert_eq!((store.len(), store.evicted()), (4, 0));
    });
}

#[test]
fn a_flood_from_all_sides_never_exceeds_the_bound() {
    explore(|| {
        let store = store(3, 1);
        let shared = Arc::clone(&store);
        together(3, move |at| {
            for key in 0..4 {
                touch(&shared, &format!("{at} {key}"), key);
                assert!(shared.len() <= 3);
            }
        });
        assert_eq!((store.len(), store.evicted()), (3, 9));
    });
}
