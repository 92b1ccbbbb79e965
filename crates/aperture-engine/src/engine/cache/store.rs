//! The store behind the result caches and the global cache: one table with expiry and a bound in
//! bytes.

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ahash::RandomState;
use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, OptionsBuilder, Weighter};
use smallvec::SmallVec;

use super::shared::StoreCaches;
use crate::engine::clock::{Nanos, nanos};
use crate::engine::shared::SharedCaches;
use aperture_core::{CacheLookup, CacheRefusal, CacheValue, Invalidations};

pub(super) const MILLI: Nanos = 1_000_000;
/// The longest time to live, which also applies to entries without one.
const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The maximum length in bytes of a key as an Agent stores it.
const MAX_STORED_KEY: usize = 255;
/// The maximum size in bytes of a stored key and its value, including an Agent's overhead.
const MAX_ENTRY: usize = (1 << 20) - 1;
const AGENT_OVERHEAD: usize = 29;
/// The bytes that an entry takes in this process besides its texts and its value.
const ENTRY_OVERHEAD: usize = 128;
/// The minimum size of a shard, which has its own lock: the largest entries must fit into one
/// shard.
const MIN_SHARD_BYTES: usize = 4 << 20;
const MAX_SHARDS: usize = 32;
/// The number of keys of a lookup up to which duplicates are found by comparing, without a hash
/// set.
const FEW_KEYS: usize = 8;

/// The result caches and the global cache, within one bound in bytes.
pub(crate) struct EngineCaches {
    bytes: usize,
    /// Shared by all clients of the engine.
    invalidations: Invalidations,
    /// Created by the first write, because most engines never cache.
    store: OnceLock<CacheStore>,
    /// The caches that the engine uses in place of those in process.
    shared: Option<StoreCaches>,
}

struct CacheStore {
    cache: Cache<StoredKey, StoredEntry, EntrySize, RandomState>,
    /// The largest entry that fits into a shard.
    max_entry_bytes: usize,
}

/// The key of an entry: its control point for the result cache, or none for the global cache, and
/// the key within that cache.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StoredKey {
    control_point: Option<Box<str>>,
    key: Box<str>,
}

/// A borrowed [`StoredKey`].
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheKey<'a> {
    pub(super) control_point: Option<&'a str>,
    pub(super) key: &'a str,
}

#[derive(Clone)]
struct StoredEntry {
    value: Bytes,
    /// In milliseconds of the engine's clock; the entry is expired at that time.
    expires_at: i64,
}

#[derive(Clone)]
struct EntrySize;

impl EngineCaches {
    pub(crate) fn new(bytes: usize, shared: Option<Arc<dyn SharedCaches>>) -> Self {
        Self {
            bytes,
            invalidations: Invalidations::default(),
            store: OnceLock::new(),
            shared: shared.map(StoreCaches::new),
        }
    }

    /// Returns the caches in the shared store, if the engine shares its caches.
    pub(crate) const fn shared(&self) -> Option<&StoreCaches> {
        self.shared.as_ref()
    }

    pub(crate) const fn invalidations(&self) -> &Invalidations {
        &self.invalidations
    }

    fn store(&self) -> &CacheStore {
        self.store.get_or_init(|| CacheStore::new(self.bytes))
    }

    /// Looks up a key of the result cache, unless it is empty, and the distinct keys of the global
    /// cache.
    pub(crate) fn look_up<'k>(
        &self,
        control_point: &str,
        result_key: &str,
        global_keys: impl IntoIterator<Item = &'k str>,
        now: Nanos,
    ) -> CacheLookup {
        let mut found = CacheLookup::default();
        if !result_key.is_empty() {
            found.result = Some(self.read(CacheKey::result(control_point, result_key), now));
        }
        distinct(global_keys, |key| {
            let value = self.read(CacheKey::global(key), now);
            found.global.push((key.to_owned(), value));
        });
        found
    }

    fn read(&self, key: CacheKey<'_>, now: Nanos) -> CacheValue {
        key.check()?;
        let Some(store) = self.store.get() else {
            return Ok(None);
        };
        let Some(entry) = store.cache.get(&key) else {
            return Ok(None);
        };
        let now_millis = now / MILLI;
        if entry.expires_at > now_millis {
            return Ok(Some(entry.value));
        }
        // Another thread may have replaced the entry meanwhile.
        store
            .cache
            .remove_if(&key, |entry| entry.expires_at <= now_millis);
        Ok(None)
    }

    pub(super) fn write(
        &self,
        key: CacheKey<'_>,
        value: &[u8],
        ttl: Option<Duration>,
        now: Nanos,
    ) -> Result<(), CacheRefusal> {
        let size = key.check_entry(value)?;
        let store = self.store();
        if size.saturating_add(ENTRY_OVERHEAD) > store.max_entry_bytes {
            return Err(too_large());
        }
        let ttl = effective_ttl(ttl);
        if ttl < Duration::from_millis(1) {
            // The entry would expire before any lookup.
            store.cache.remove(&key);
            return Ok(());
        }
        let expires_at = now.saturating_add(nanos(ttl)) / MILLI;
        // Copied, because a slice of a larger buffer would keep the whole buffer alive, outside of
        // the bound.
        let value = Bytes::copy_from_slice(value);
        store
            .cache
            .insert(key.owned(), StoredEntry { value, expires_at });
        Ok(())
    }

    pub(super) fn delete(&self, key: CacheKey<'_>) -> Result<(), CacheRefusal> {
        key.check()?;
        if let Some(store) = self.store.get() {
            store.cache.remove(&key);
        }
        Ok(())
    }
}

/// Omits keys and values, which may identify people.
impl fmt::Debug for EngineCaches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.store.get().map_or(0, |store| store.cache.len());
        f.debug_struct("EngineCaches")
            .field("entries", &entries)
            .finish_non_exhaustive()
    }
}

impl CacheStore {
    fn new(bytes: usize) -> Self {
        // A power of two, because the crate rounds the number up to one: no shard becomes smaller
        // than the minimum.
        let shards = match bytes / MIN_SHARD_BYTES {
            0 => 1,
            many => 1 << many.ilog2(),
        };
        let shards = shards.min(MAX_SHARDS);
        let items = (bytes / 1024).max(16);
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(items)
            .weight_capacity(bytes as u64)
            .build()
            .expect("both required options are set");
        let cache = Cache::with_options(
            options,
            EntrySize,
            RandomState::new(),
            DefaultLifecycle::default(),
        );
        // `quick_cache` refuses an entry that would fill nearly all of a shard.
        let max_entry_bytes =
            usize::try_from(cache.shard_capacity() / 100 * 96).unwrap_or(usize::MAX);
        Self {
            cache,
            max_entry_bytes,
        }
    }
}

impl<'a> CacheKey<'a> {
    pub(super) fn result(control_point: &'a str, key: &'a str) -> Self {
        Self {
            control_point: Some(control_point),
            key,
        }
    }

    pub(super) fn global(key: &'a str) -> Self {
        Self {
            control_point: None,
            key,
        }
    }

    pub(super) fn check(self) -> Result<(), CacheRefusal> {
        if self.key.is_empty() {
            return Err(CacheRefusal::new("cache key cannot be empty"));
        }
        if self.control_point == Some("") {
            return Err(CacheRefusal::new("cache control_point cannot be empty"));
        }
        Ok(())
    }

    /// Checks the key and the size of an entry, which it returns: the bytes of the key, as an Agent
    /// stores it, and of the value.
    pub(super) fn check_entry(self, value: &[u8]) -> Result<usize, CacheRefusal> {
        self.check()?;
        if self.is_too_long() {
            return Err(CacheRefusal::new("key too large"));
        }
        let size = self.stored_len().saturating_add(value.len());
        if size.saturating_add(AGENT_OVERHEAD) > MAX_ENTRY {
            return Err(too_large());
        }
        Ok(size)
    }

    /// Returns true if no entry can have the key.
    pub(super) fn is_too_long(self) -> bool {
        self.stored_len() > MAX_STORED_KEY
    }

    /// Returns the length of the key as an Agent stores it. An Agent keeps both caches in one table
    /// with prefixed keys, and its limits apply to the prefixed keys.
    fn stored_len(self) -> usize {
        let prefix_len = match self.control_point {
            Some(name) => "@controlpoint:".len() + name.len(),
            None => "@global".len(),
        };
        prefix_len + "/type:bytes/key:".len() + self.key.len()
    }

    fn owned(self) -> StoredKey {
        StoredKey {
            control_point: self.control_point.map(Into::into),
            key: self.key.into(),
        }
    }
}

/// Returns the time to live of an entry: seven days if it has none, and at most.
pub(super) fn effective_ttl(ttl: Option<Duration>) -> Duration {
    match ttl {
        None | Some(Duration::ZERO) => MAX_TTL,
        Some(ttl) => ttl.min(MAX_TTL),
    }
}

fn too_large() -> CacheRefusal {
    CacheRefusal::new("entry too large for the configured table size")
}

/// Calls `visit` with each key once, in their order.
pub(super) fn distinct<'k>(
    keys: impl IntoIterator<Item = &'k str>,
    mut visit: impl FnMut(&'k str),
) {
    let mut few: SmallVec<[&str; FEW_KEYS]> = SmallVec::new();
    let mut many: HashSet<&str, RandomState> = HashSet::default();
    for key in keys {
        let is_new = if few.len() < FEW_KEYS {
            let is_new = !few.contains(&key);
            few.extend(is_new.then_some(key));
            is_new
        } else {
            !few.contains(&key) && many.insert(key)
        };
        if is_new {
            visit(key);
        }
    }
}

impl StoredKey {
    fn as_cache_key(&self) -> CacheKey<'_> {
        CacheKey {
            control_point: self.control_point.as_deref(),
            key: &self.key,
        }
    }
}

impl Hash for CacheKey<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.control_point.hash(state);
        self.key.hash(state);
    }
}

/// Equals the hash of the borrowed [`CacheKey`], as [`Equivalent`] requires.
impl Hash for StoredKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_cache_key().hash(state);
    }
}

impl Equivalent<StoredKey> for CacheKey<'_> {
    fn equivalent(&self, key: &StoredKey) -> bool {
        self.control_point == key.control_point.as_deref() && *self.key == *key.key
    }
}

impl Weighter<StoredKey, StoredEntry> for EntrySize {
    fn weight(&self, key: &StoredKey, entry: &StoredEntry) -> u64 {
        (key.as_cache_key().stored_len() + entry.value.len() + ENTRY_OVERHEAD) as u64
    }
}
