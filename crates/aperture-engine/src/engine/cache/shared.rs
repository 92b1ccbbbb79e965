//! The caches of engines that share them in a store: the keys that they have there, and the calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::ask::{CacheAsk, LookupAsk, Planned, Read, Write};
use super::store::{CacheKey, MILLI, distinct, effective_ttl};
use crate::engine::clock::{Nanos, nanos};
use crate::engine::engine_flow::{DEADLINE_MARGIN, NO_DEADLINE};
use crate::engine::shared::{KEY_VERSION, SharedCaches, StoreKey, add_text};

/// The caches in the shared store of an engine.
#[derive(Debug)]
pub(crate) struct StoreCaches {
    caches: Arc<dyn SharedCaches>,
    /// Counts the operations that were not answered in time, or refused by the store.
    failures: Arc<AtomicU64>,
}

/// The change of one key.
pub(super) enum Change<'a> {
    Set(&'a [u8], Option<Duration>),
    Delete,
}

impl StoreCaches {
    pub(super) fn new(caches: Arc<dyn SharedCaches>) -> Self {
        Self {
            caches,
            failures: Arc::default(),
        }
    }

    /// Returns the number of operations that were not answered in time, or refused by the store.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Looks up a key of the result cache, unless it is empty, and the distinct keys of the global
    /// cache, for a flow that has `time_left`.
    pub(crate) fn start_lookup<'k>(
        &self,
        control_point: &str,
        result_key: &str,
        global_keys: impl IntoIterator<Item = &'k str>,
        time_left: Nanos,
        now: Nanos,
    ) -> LookupAsk {
        // The caller of the flow gets the decision in time, with the values or without them.
        let longest = match time_left {
            NO_DEADLINE => self.deadline(),
            left => self.deadline().min(left.saturating_sub(DEADLINE_MARGIN)),
        };
        let read = |key: CacheKey<'_>| match key.check() {
            Err(refusal) => Planned::Known(Err(refusal)),
            // No such value is ever stored.
            Ok(()) if key.is_too_long() => Planned::Known(Ok(None)),
            Ok(()) => Planned::Operation(Read(store_key(key))),
        };
        let mut global = Vec::new();
        distinct(global_keys, |key| {
            global.push((key.to_owned(), read(CacheKey::global(key))));
        });
        let result =
            (!result_key.is_empty()).then(|| read(CacheKey::result(control_point, result_key)));
        let until = (now, now.saturating_add(longest.max(0)));
        CacheAsk::start(
            &*self.caches,
            &self.failures,
            result,
            global.into_iter(),
            until,
        )
    }

    /// Makes changes of a key of the result cache and of keys of the global cache.
    pub(super) fn start_change<'k>(
        &self,
        result: Option<(CacheKey<'_>, Change<'_>)>,
        global: impl Iterator<Item = (&'k str, Change<'k>)>,
        now: Nanos,
    ) -> CacheAsk<Write> {
        let until = (now, now.saturating_add(self.deadline()));
        CacheAsk::start(
            &*self.caches,
            &self.failures,
            result.map(|(key, change)| plan(key, &change)),
            global.map(|(key, change)| (key.to_owned(), plan(CacheKey::global(key), &change))),
            until,
        )
    }

    fn deadline(&self) -> Nanos {
        nanos(self.caches.deadline())
    }
}

/// Returns the operation that makes a change, or the refusal of the key or value.
fn plan(key: CacheKey<'_>, change: &Change<'_>) -> Planned<Write> {
    let checked = match change {
        Change::Set(value, _) => key.check_entry(value).map(drop),
        Change::Delete => key.check(),
    };
    if let Err(refusal) = checked {
        return Planned::Known(Err(refusal));
    }
    let store_key = store_key(key);
    Planned::Operation(match *change {
        Change::Set(value, ttl) => match effective_ttl(ttl) {
            ttl if nanos(ttl) >= MILLI => Write::Set(store_key, Bytes::copy_from_slice(value), ttl),
            // The entry would expire before any lookup.
            _ => Write::Delete(store_key),
        },
        Change::Delete => Write::Delete(store_key),
    })
}

/// Returns the key of a value in the store: 128 bits of a SHA-256, from which neither the control
/// point nor the cache key can be read.
fn store_key(key: CacheKey<'_>) -> StoreKey {
    let mut hash = Sha256::new().chain_update([KEY_VERSION]);
    match key.control_point {
        Some(control_point) => {
            add_text(&mut hash, "result_cache");
            add_text(&mut hash, control_point);
        }
        None => add_text(&mut hash, "global_cache"),
    }
    add_text(&mut hash, key.key);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    StoreKey::from_bytes(bytes)
}
