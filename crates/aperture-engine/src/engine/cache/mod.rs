//! The result cache of each control point, and the global cache that all control points share.

mod store;

use std::fmt;
use std::time::Duration;

use super::clock::nanos;
use super::{Engine, EngineMode};
use aperture_core::{CacheChange, CacheLookup, Invalidations};

pub(crate) use self::store::EngineCaches;

use self::store::CacheKey;

/// The caches, as an Agent offers them with its `CacheLookup`, `CacheUpsert` and `CacheDelete`.
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
impl<M: EngineMode> Engine<M> {
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
        let now = nanos(self.shared.clock.now());
        let write = |key, entry: &CacheEntry<'_>| {
            self.shared.caches.write(key, entry.value, entry.ttl, now)
        };
        let result = result.filter(|entry| !entry.key.is_empty());
        let global = global.into_iter().filter(|entry| !entry.key.is_empty());
        CacheChange::new(
            result.map(|entry| write(CacheKey::result(control_point, entry.key), &entry)),
            global.map(|entry| {
                (
                    entry.key.to_owned(),
                    write(CacheKey::global(entry.key), &entry),
                )
            }),
        )
    }

    /// Deletes a key of a control point's result cache, unless the key is empty, and keys of the
    /// global cache. Deleting a missing key succeeds.
    pub fn cache_delete<'k>(
        &self,
        control_point: &str,
        result_key: &str,
        global_keys: impl IntoIterator<Item = &'k str>,
    ) -> CacheChange {
        let caches = &self.shared.caches;
        let result = (!result_key.is_empty())
            .then(|| caches.delete(CacheKey::result(control_point, result_key)));
        let global = global_keys.into_iter().filter(|key| !key.is_empty());
        CacheChange::new(
            result,
            global.map(|key| (key.to_owned(), caches.delete(CacheKey::global(key)))),
        )
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
