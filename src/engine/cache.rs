//! The result cache of each control point, and the global cache that all share.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;
use std::time::Duration;

use ahash::RandomState;
use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, OptionsBuilder, Weighter};

use super::Engine;
use super::clock::{Clock, Nanos, nanos};
use super::index::Placed;
use super::limiters::Decided;
use super::stages::{Flow, Observer};
use crate::flow::{CacheChange, CacheLookup, CacheRefusal, CacheValue, FlowParams};

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

/// Both caches, in one bound of bytes.
pub(crate) struct Caches {
    bytes: usize,
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
struct Place<'a> {
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
            store: OnceLock::new(),
        }
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
        for key in global_keys {
            if found.global(key).is_none() {
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

    fn write(
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

    fn delete(&self, place: Place<'_>) -> Result<(), CacheRefusal> {
        place.check()?;
        if let Some(store) = self.store.get() {
            store.cache.remove(&place);
        }
        Ok(())
    }
}

/// Looks up, between the steps, what a flow asks the caches for.
pub(crate) struct Recall<'a, 'p> {
    caches: &'a Caches,
    params: &'a FlowParams<'p>,
    pub(crate) found: Option<CacheLookup>,
}

impl<'a, 'p> Recall<'a, 'p> {
    /// `None` for a flow that asks for nothing.
    pub(crate) fn of(caches: &'a Caches, params: &'a FlowParams<'p>) -> Option<Self> {
        let asks = params.result_cache_key.is_some() || !params.global_cache_keys.is_empty();
        asks.then(|| Self::always(caches, params))
    }

    /// Has an answer, be it an empty one, for every flow that comes so far.
    pub(crate) fn always(caches: &'a Caches, params: &'a FlowParams<'p>) -> Self {
        Self {
            caches,
            params,
            found: None,
        }
    }

    /// Whether the result cache has the flow's answer.
    pub(crate) fn look_up(&mut self, flow: &Flow<'_, '_>, clock: &dyn Clock) -> bool {
        let result_key = self.params.result_cache_key.as_deref().unwrap_or("");
        let global_keys = self.params.global_cache_keys.iter().map(|key| &**key);
        let now = nanos(clock.now());
        let found = self
            .caches
            .look_up(flow.control_point, result_key, global_keys, now);
        let hit = found.result_value().is_some();
        self.found = Some(found);
        hit
    }
}

impl Observer for Recall<'_, '_> {
    fn decided(&mut self, _: &Flow<'_, '_>, _: &Placed, _: &Decided) {}

    fn look_up(&mut self, flow: &Flow<'_, '_>, clock: &dyn Clock) -> bool {
        self.look_up(flow, clock)
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
    fn result(control_point: &'a str, key: &'a str) -> Self {
        Self {
            control_point: Some(control_point),
            key,
        }
    }

    fn global(key: &'a str) -> Self {
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

/// The caches, as an Agent offers them with its `CacheLookup`, `CacheUpsert` and `CacheDelete`.
///
/// They live in memory and go with the engine. Together they take no more than
/// [`cache_bytes`](super::EngineBuilder::cache_bytes); what was of little use goes first. One
/// entry takes less than 1 MiB, key included. (An Agent hangs on an entry of exactly 1 MiB; here
/// that is too large.)
///
/// ```
/// use std::time::Duration;
/// use tower_aperture::Engine;
/// use tower_aperture::engine::{CacheEntry, ManualClock};
///
/// let clock = ManualClock::new();
/// let engine = Engine::builder().clock(clock.clone()).build()?;
/// let entry = CacheEntry::new("profile-42", b"ann").ttl(Some(Duration::from_secs(60)));
/// engine.cache_upsert("profile", Some(entry), []);
///
/// let found = engine.cache_lookup("profile", "profile-42", ["settings"]);
/// assert_eq!(found.result_value().map(|value| &value[..]), Some(&b"ann"[..]));
/// assert_eq!(found.global_value("settings"), None);
///
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(engine.cache_lookup("profile", "profile-42", []).result_value(), None);
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
impl Engine {
    /// Looks up a key of a control point's result cache, unless it is empty, and keys of the
    /// global cache.
    pub fn cache_lookup<'k>(
        &self,
        control_point: &str,
        result_key: &str,
        global_keys: impl IntoIterator<Item = &'k str>,
    ) -> CacheLookup {
        let now = nanos(self.shared.clock.now());
        self.shared
            .caches
            .look_up(control_point, result_key, global_keys, now)
    }

    /// Stores a value in a control point's result cache, and values in the global cache. What was
    /// there is replaced, time to live included. Entries without a key are left out.
    pub fn cache_upsert<'k>(
        &self,
        control_point: &str,
        result: Option<CacheEntry<'_>>,
        global: impl IntoIterator<Item = CacheEntry<'k>>,
    ) -> CacheChange {
        let now = nanos(self.shared.clock.now());
        let write = |place, entry: &CacheEntry<'_>| {
            self.shared.caches.write(place, entry.value, entry.ttl, now)
        };
        let result = result.filter(|entry| !entry.key.is_empty());
        let global = global.into_iter().filter(|entry| !entry.key.is_empty());
        CacheChange {
            result: result.map(|entry| write(Place::result(control_point, entry.key), &entry)),
            global: global
                .map(|entry| {
                    (
                        entry.key.to_owned(),
                        write(Place::global(entry.key), &entry),
                    )
                })
                .collect(),
        }
    }

    /// Deletes a key of a control point's result cache, unless it is empty, and keys of the
    /// global cache. What is not there was deleted all the same.
    pub fn cache_delete<'k>(
        &self,
        control_point: &str,
        result_key: &str,
        global_keys: impl IntoIterator<Item = &'k str>,
    ) -> CacheChange {
        let caches = &self.shared.caches;
        let result = (!result_key.is_empty())
            .then(|| caches.delete(Place::result(control_point, result_key)));
        let global = global_keys.into_iter().filter(|key| !key.is_empty());
        CacheChange {
            result,
            global: global
                .map(|key| (key.to_owned(), caches.delete(Place::global(key))))
                .collect(),
        }
    }
}

/// A value for a cache.
///
/// See [`Engine::cache_upsert`] for an example.
#[derive(Clone, Copy)]
pub struct CacheEntry<'a> {
    key: &'a str,
    value: &'a [u8],
    ttl: Option<Duration>,
}

impl<'a> CacheEntry<'a> {
    /// A value that is kept for seven days.
    #[must_use]
    pub const fn new(key: &'a str, value: &'a [u8]) -> Self {
        Self {
            key,
            value,
            ttl: None,
        }
    }

    /// How long the value is kept, to the millisecond and for seven days at most, which is also
    /// what `None` and zero mean. With less than a millisecond nobody will find it.
    #[must_use]
    pub const fn ttl(mut self, ttl: Option<Duration>) -> Self {
        self.ttl = ttl;
        self
    }
}

/// Neither key nor value: they may identify people.
impl fmt::Debug for CacheEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheEntry")
            .field("bytes", &self.value.len())
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}
