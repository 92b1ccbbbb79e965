//! The result cache of each control point, and the global cache that all control points share.

mod ask;
mod pending;
mod replies;
mod shared;
mod store;

use std::fmt;
use std::time::Duration;

use super::clock::nanos;
use super::engine_flow::NO_DEADLINE;
use super::{Engine, EngineMode};
use aperture_core::{CacheChange, CacheLookup, Invalidations};

pub use self::pending::{PendingCacheChange, PendingCacheLookup};

pub(crate) use self::ask::LookupAsk;
pub(crate) use self::shared::StoreCaches;
pub(crate) use self::store::EngineCaches;

use self::pending::Pending;
use self::shared::Change;
use self::store::CacheKey;

/// The caches, as an Agent offers them with its `CacheLookup`, `CacheUpsert` and `CacheDelete`.
///
/// An engine whose limits may be in a shared store has [futures](Engine::start_cache_lookup) of these
/// operations in their place.
///
/// The caches live in memory as long as the engine. Together they take no more than
/// [`cache_bytes`](super::EngineBuilder::cache_bytes); the least used entries are evicted first.
/// One entry takes less than 1 MiB, key included. (An Agent hangs on an entry of exactly 1 MiB; the
/// engine refuses it.)
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
    /// Looks up a key of a control point's result cache, unless the key is empty, and keys of the
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

    /// Stores a value in a control point's result cache, and values in the global cache. Replaces
    /// an existing value and its time to live. Entries with an empty key are skipped.
    pub fn cache_upsert<'k>(
        &self,
        control_point: &str,
        result: Option<CacheEntry<'_>>,
        global: impl IntoIterator<Item = CacheEntry<'k>>,
    ) -> CacheChange {
        self.start_cache_upsert(control_point, result, global)
            .made()
    }

    /// Deletes a key of a control point's result cache, unless the key is empty, and keys of the
    /// global cache. Deleting a missing key succeeds.
    pub fn cache_delete<'k>(
        &self,
        control_point: &str,
        result_key: &str,
        global_keys: impl IntoIterator<Item = &'k str>,
    ) -> CacheChange {
        self.start_cache_delete(control_point, result_key, global_keys)
            .made()
    }
}

/// The caches of engines of both modes. The caches are those of the process, or those in the shared
/// store if the [store has caches](super::shared::SharedStore::caches).
///
/// In a shared store, a value that one engine stores is found by all others. Keys and values have
/// the same limits, and one call has at most 256 keys. Values expire by the clock of the store, and
/// [`cache_bytes`](super::EngineBuilder::cache_bytes) does not apply: the store decides which values
/// it keeps. A lookup or change that the store does not answer within its deadline fails
/// ([`CacheRefusal::is_unreachable`](aperture_core::CacheRefusal::is_unreachable)), a change even if
/// the store makes it later; [`EngineStats::cache_failures`](super::EngineStats::cache_failures)
/// counts these.
///
/// ```
/// use tower_aperture::engine::{CacheEntry, Engine};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let engine = Engine::builder().build()?;
/// let entry = CacheEntry::new("profile-42", b"ann");
/// let change = engine.start_cache_upsert("profile", Some(entry), []).await;
/// assert_eq!(change.result, Some(Ok(())));
///
/// let found = engine.start_cache_lookup("profile", "profile-42", []).await;
/// assert_eq!(found.result_value().map(|value| &value[..]), Some(&b"ann"[..]));
///
/// engine.start_cache_delete("profile", "profile-42", []).await;
/// let found = engine.start_cache_lookup("profile", "profile-42", []).await;
/// assert_eq!(found.result_value(), None);
/// # Ok::<(), tower_aperture::PolicyError>(())
/// # }).unwrap();
/// ```
impl<M: EngineMode> Engine<M> {
    /// Starts a lookup, like [`cache_lookup`](Engine::cache_lookup).
    pub fn start_cache_lookup<'k>(
        &self,
        control_point: &str,
        result_key: &str,
        global_keys: impl IntoIterator<Item = &'k str>,
    ) -> PendingCacheLookup {
        let (caches, clock) = (&self.shared.caches, &self.shared.clock);
        let now = nanos(clock.now());
        PendingCacheLookup(match caches.shared() {
            None => Pending::done(caches.look_up(control_point, result_key, global_keys, now)),
            Some(shared) => {
                let (key, keys) = (result_key, global_keys);
                let ask = shared.start_lookup(control_point, key, keys, NO_DEADLINE, now);
                Pending::asked(ask, clock)
            }
        })
    }

    /// Starts to store values, like [`cache_upsert`](Engine::cache_upsert).
    pub fn start_cache_upsert<'k>(
        &self,
        control_point: &str,
        result: Option<CacheEntry<'_>>,
        global: impl IntoIterator<Item = CacheEntry<'k>>,
    ) -> PendingCacheChange {
        let (caches, clock) = (&self.shared.caches, &self.shared.clock);
        let now = nanos(clock.now());
        let result = result.filter(|entry| !entry.key.is_empty());
        let result = result.map(|entry| (CacheKey::result(control_point, entry.key), entry));
        let global = global.into_iter().filter(|entry| !entry.key.is_empty());
        PendingCacheChange(match caches.shared() {
            None => {
                let write =
                    |key, entry: &CacheEntry<'_>| caches.write(key, entry.value, entry.ttl, now);
                Pending::done(CacheChange::new(
                    result.map(|(key, entry)| write(key, &entry)),
                    global.map(|entry| {
                        let written = write(CacheKey::global(entry.key), &entry);
                        (entry.key.to_owned(), written)
                    }),
                ))
            }
            Some(shared) => {
                let result = result.map(|(key, entry)| (key, Change::Set(entry.value, entry.ttl)));
                let global = global.map(|entry| (entry.key, Change::Set(entry.value, entry.ttl)));
                Pending::asked(shared.start_change(result, global, now), clock)
            }
        })
    }

    /// Starts to delete values, like [`cache_delete`](Engine::cache_delete).
    pub fn start_cache_delete<'k>(
        &self,
        control_point: &str,
        result_key: &str,
        global_keys: impl IntoIterator<Item = &'k str>,
    ) -> PendingCacheChange {
        let (caches, clock) = (&self.shared.caches, &self.shared.clock);
        let result = (!result_key.is_empty()).then(|| CacheKey::result(control_point, result_key));
        let global = global_keys.into_iter().filter(|key| !key.is_empty());
        PendingCacheChange(match caches.shared() {
            None => Pending::done(CacheChange::new(
                result.map(|key| caches.delete(key)),
                global.map(|key| (key.to_owned(), caches.delete(CacheKey::global(key)))),
            )),
            Some(shared) => {
                let result = result.map(|key| (key, Change::Delete));
                let global = global.map(|key| (key, Change::Delete));
                let ask = shared.start_change(result, global, nanos(clock.now()));
                Pending::asked(ask, clock)
            }
        })
    }
}

impl<M: EngineMode> Engine<M> {
    /// Returns the invalidations of responses in the result caches.
    #[doc(hidden)]
    pub fn invalidations(&self) -> &Invalidations {
        self.shared.caches.invalidations()
    }
}

/// A key and value to store in a cache.
///
/// See [`Engine::cache_upsert`] for an example.
#[derive(Clone, Copy)]
pub struct CacheEntry<'a> {
    key: &'a str,
    value: &'a [u8],
    ttl: Option<Duration>,
}

impl<'a> CacheEntry<'a> {
    /// Creates an entry that is kept for seven days.
    #[must_use]
    pub const fn new(key: &'a str, value: &'a [u8]) -> Self {
        Self {
            key,
            value,
            ttl: None,
        }
    }

    /// Sets the time to live, which counts in milliseconds and is at most seven days. `None` and
    /// zero mean seven days. An entry with less than a millisecond expires before it can be found.
    #[must_use]
    pub const fn ttl(mut self, ttl: Option<Duration>) -> Self {
        self.ttl = ttl;
        self
    }
}

/// Omits key and value, which may identify people.
impl fmt::Debug for CacheEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheEntry")
            .field("bytes", &self.value.len())
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}
