//! Results of cache lookups and of changes to the caches.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use bytes::Bytes;

/// The result of a cache lookup, with a check or on its own: Aperture's `CacheLookupResponse`.
///
/// ```
/// use tower_aperture::cache::CacheLookup;
///
/// let lookup = CacheLookup::default();
/// assert_eq!(lookup.result_value(), None);
/// assert_eq!(lookup.global_value("settings"), None);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheLookup {
    /// The result of the lookup in the result cache; `None` if no lookup was made there.
    pub result: Option<CacheValue>,
    /// The result for each key that was looked up in the global cache, each key once.
    pub global: Vec<(String, CacheValue)>,
}

/// The result of the lookup of one key: a value, a miss, or the reason why the cache refused the
/// key.
///
/// See [`CacheLookup`] for an example.
pub type CacheValue = Result<Option<Bytes>, CacheRefusal>;

impl CacheLookup {
    /// Returns the result of a lookup, for a decider with caches of its own.
    #[must_use]
    pub fn new(
        result: Option<CacheValue>,
        global: impl IntoIterator<Item = (String, CacheValue)>,
    ) -> Self {
        let global = global.into_iter().collect();
        Self { result, global }
    }

    /// Returns the value of the result cache; `None` on a miss, a refusal or without a lookup.
    #[must_use]
    pub fn result_value(&self) -> Option<&Bytes> {
        self.result.as_ref()?.as_ref().ok()?.as_ref()
    }

    /// Returns the value of a key of the global cache; `None` on a miss, a refusal or without a
    /// lookup of this key.
    #[must_use]
    pub fn global_value(&self, key: &str) -> Option<&Bytes> {
        self.global(key)?.as_ref().ok()?.as_ref()
    }

    /// Returns the result for a key of the global cache; `None` if it was not looked up.
    #[must_use]
    pub fn global(&self, key: &str) -> Option<&CacheValue> {
        let mut all = self.global.iter();
        all.find(|(known, _)| known == key).map(|(_, value)| value)
    }
}

/// Shows hits and misses only, because keys and values may identify people.
impl fmt::Debug for CacheLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |value: &CacheValue| match value {
            Ok(Some(_)) => "hit",
            Ok(None) => "miss",
            Err(_) => "refused",
        };
        let global: Vec<_> = self.global.iter().map(|(_, value)| word(value)).collect();
        f.debug_struct("CacheLookup")
            .field("result", &self.result.as_ref().map(word))
            .field("global", &global)
            .finish()
    }
}

/// The result of a change to the caches: Aperture's `CacheUpsertResponse` and
/// `CacheDeleteResponse`.
///
/// ```
/// use tower_aperture::cache::CacheChange;
///
/// let change = CacheChange::new(None, [("prices".to_owned(), Ok(()))]);
/// assert_eq!(change.global[0].0, "prices");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheChange {
    /// The result for the result cache; `None` if the call did not change it.
    pub result: Option<Result<(), CacheRefusal>>,
    /// The result for each key of the global cache that the call was to change.
    pub global: Vec<(String, Result<(), CacheRefusal>)>,
}

impl CacheChange {
    /// Returns the result of a change, for a decider with caches of its own.
    #[must_use]
    pub fn new(
        result: Option<Result<(), CacheRefusal>>,
        global: impl IntoIterator<Item = (String, Result<(), CacheRefusal>)>,
    ) -> Self {
        let global = global.into_iter().collect();
        Self { result, global }
    }
}

/// The reason why a cache refused an operation, with the text that an Agent uses.
///
/// ```
/// use tower_aperture::Engine;
///
/// let engine = Engine::builder().build().unwrap();
/// let looked = engine.cache_lookup("", "profile-42", []);
/// let refusal = looked.result.unwrap().unwrap_err();
/// assert_eq!(refusal.to_string(), "cache control_point cannot be empty");
/// assert!(!refusal.is_unreachable());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRefusal {
    text: Cow<'static, str>,
    unreachable: bool,
}

impl CacheRefusal {
    #[doc(hidden)]
    pub fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            text: text.into(),
            unreachable: false,
        }
    }

    /// Returns the refusal of caches that did not answer in time, or at all.
    #[doc(hidden)]
    pub fn unreachable(text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            text: text.into(),
            unreachable: true,
        }
    }

    /// Returns true if the caches are in a store that did not answer in time, or at all. It is then
    /// unknown what they hold, and whether a change was made.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        self.unreachable
    }

    #[doc(hidden)]
    pub fn into_text(self) -> String {
        self.text.into_owned()
    }
}

impl fmt::Display for CacheRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for CacheRefusal {}
