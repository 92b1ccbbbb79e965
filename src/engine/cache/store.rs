//! Both caches in one table, with lives and limits.

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;
use std::time::Duration;

use ahash::RandomState;
use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, OptionsBuilder, Weighter};
use smallvec::SmallVec;

use crate::engine::clock::{Nanos, nanos};
use crate::flow::{CacheLookup, CacheRefusal, CacheValue, Invalidations};

const MILLI: Nanos = 1_000_000;
/// Nothing is kept for longer, and what has no time to live is kept for as long.
const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Of a key as it is stored on an Agent.
const MAX_KEY: usize = 255;
/// Of a stored key and its value, with what an Agent adds to them.
const MAX_ENTRY: usize = (1 << 20) - 1;
const AGENT_OVERHEAD: usize = 29;
/// What an entry takes here beside its texts and its value.
const OVERHEAD: usize = 128;
/// A part with a lock of its own is not smaller than this, so that the largest entries fit.
const SHARD: usize = 4 << 20;
const MAX_SHARDS: usize = 32;
/// Keys of a lookup up to this number are compared one by one, without a table of them.
const FEW_KEYS: usize = 8;

/// Both caches, in one bound of bytes.
pub(crate) struct Caches {
    bytes: usize,
    /// Shared by all clients of the engine.
    invalidations: Invalidations,
    /// Made when something is stored: most engines never cache.
    store: OnceLock<Store>,
}

struct Store {
    cache: Cache<Key, Entry, Size, RandomState>,
    /// The largest entry that the bound leaves room for.
    largest: usize,
}

/// The result cache of a control point, or the global one, and the key there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    control_point: Option<Box<str>>,
    key: Box<str>,
}

/// A [`Key`] that borrows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    control_point: Option<&'a str>,
    key: &'a str,
}

#[derive(Clone)]
struct Entry {
    value: Bytes,
    /// In milliseconds: over at that time.
    until: i64,
}

#[derive(Clone)]
struct Size;

// === impl Caches ===

impl Caches {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            bytes,
            invalidations: Invalidations::default(),
            store: OnceLock::new(),
        }
    }

    pub(crate) const fn invalidations(&self) -> &Invalidations {
        &self.invalidations
    }

    fn store(&self) -> &Store {
        self.store.get_or_init(|| Store::new(self.bytes))
    }

    /// What a flow, or a lookup, asks for.
    pub(crate) fn look_up<'k>(
        &self,
        control_point: &str,
        result_key: &str,
        global_keys: impl IntoIterator<Item = &'k str>,
        now: Nanos,
    ) -> CacheLookup {
        let mut found = CacheLookup::default();
        if !result_key.is_empty() {
            found.result = Some(self.read(Place::result(control_point, result_key), now));
        }
        let mut few: SmallVec<[&str; FEW_KEYS]> = SmallVec::new();
        let mut many: HashSet<&str, RandomState> = HashSet::default();
        for key in global_keys {
            let is_new = if few.len() < FEW_KEYS {
                let is_new = !few.contains(&key);
                few.extend(is_new.then_some(key));
                is_new
            } else {
                !few.contains(&key) && many.insert(key)
            };
            if is_new {
                let value = self.read(Place::global(key), now);
                found.global.push((key.to_owned(), value));
            }
        }
        found
    }

    fn read(&self, place: Place<'_>, now: Nanos) -> CacheValue {
        place.check()?;
        let Some(store) = self.store.get() else {
            return Ok(None);
        };
        let Some(entry) = store.cache.get(&place) else {
            return Ok(None);
        };
        let time = now / MILLI;
        if entry.until > time {
            return Ok(Some(entry.value));
        }
        // Unless it was replaced meanwhile.
        store.cache.remove_if(&place, |entry| entry.until <= time);
        Ok(None)
    }

    pub(super) fn write(
        &self,
        place: Place<'_>,
        value: &[u8],
        ttl: Option<Duration>,
        now: Nanos,
    ) -> Result<(), CacheRefusal> {
        place.check()?;
        let key = place.stored_len();
        if key > MAX_KEY {
            return Err(CacheRefusal::new("key too large"));
        }
        let size = key.saturating_add(value.len());
        let store = self.store();
        if size.saturating_add(AGENT_OVERHEAD) > MAX_ENTRY
            || size.saturating_add(OVERHEAD) > store.largest
        {
            return Err(CacheRefusal::new(
                "entry too large for the configured table size",
            ));
        }
        let ttl = match ttl {
            None | Some(Duration::ZERO) => MAX_TTL,
            Some(ttl) => ttl.min(MAX_TTL),
        };
        if ttl < Duration::from_millis(1) {
            // Over before anybody can look.
            store.cache.remove(&place);
            return Ok(());
        }
        let until = now.saturating_add(nanos(ttl)) / MILLI;
        // Copied: a slice of a larger buffer would keep all of that, and no bound would hold.
        let value = Bytes::copy_from_slice(value);
        store.cache.insert(place.owned(), Entry { value, until });
        Ok(())
    }

    pub(super) fn delete(&self, place: Place<'_>) -> Result<(), CacheRefusal> {
        place.check()?;
        if let Some(store) = self.store.get() {
            store.cache.remove(&place);
        }
        Ok(())
    }
}

/// Keys and values may identify people.
impl fmt::Debug for Caches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.store.get().map_or(0, |store| store.cache.len());
        f.debug_struct("Caches")
            .field("entries", &entries)
            .finish_non_exhaustive()
    }
}

// === impl Store ===

impl Store {
    fn new(bytes: usize) -> Self {
        // A power of two, so that none gets less than its share.
        let shards = match bytes / SHARD {
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
            .expect("both settings that it needs are given");
        let cache = Cache::with_options(
            options,
            Size,
            RandomState::new(),
            DefaultLifecycle::default(),
        );
        // The crate turns away what would fill nearly all of a shard.
        let largest = usize::try_from(cache.shard_capacity() / 100 * 96).unwrap_or(usize::MAX);
        Self { cache, largest }
    }
}

// === impl Place ===

impl<'a> Place<'a> {
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

    fn check(self) -> Result<(), CacheRefusal> {
        if self.key.is_empty() {
            return Err(CacheRefusal::new("cache key cannot be empty"));
        }
        if self.control_point == Some("") {
            return Err(CacheRefusal::new("cache control_point cannot be empty"));
        }
        Ok(())
    }

    /// An Agent keeps both caches in one table, and its limits hold for the keys there.
    fn stored_len(self) -> usize {
        let space = match self.control_point {
            Some(name) => "@controlpoint:".len() + name.len(),
            None => "@global".len(),
        };
        space + "/type:bytes/key:".len() + self.key.len()
    }

    fn owned(self) -> Key {
        Key {
            control_point: self.control_point.map(Into::into),
            key: self.key.into(),
        }
    }
}

impl Key {
    fn place(&self) -> Place<'_> {
        Place {
            control_point: self.control_point.as_deref(),
            key: &self.key,
        }
    }
}

impl Hash for Place<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.control_point.hash(state);
        self.key.hash(state);
    }
}

/// As of what it lends.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.place().hash(state);
    }
}

impl Equivalent<Key> for Place<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.control_point == key.control_point.as_deref() && *self.key == *key.key
    }
}

impl Weighter<Key, Entry> for Size {
    fn weight(&self, key: &Key, entry: &Entry) -> u64 {
        (key.place().stored_len() + entry.value.len() + OVERHEAD) as u64
    }
}
