use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use bytes::Bytes;

/// What the caches had for a flow or a lookup: Aperture's `CacheLookupResponse`.
///
/// ```
/// use tower_aperture::CacheLookup;
///
/// let nothing = CacheLookup::default();
/// assert_eq!(nothing.result_value(), None);
/// assert_eq!(nothing.global_value("settings"), None);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheLookup {
    /// The answer of the result cache, when it was asked.
    pub result: Option<CacheValue>,
    /// The answer of the global cache to each key it was asked for, each key once.
    pub global: Vec<(String, CacheValue)>,
}

/// The answer to one key: a value, a miss, or why the cache does not take the key.
///
/// See [`CacheLookup`] for an example.
pub type CacheValue = Result<Option<Bytes>, CacheRefusal>;

impl CacheLookup {
    /// The value of the result cache, when there is one.
    #[must_use]
    pub fn result_value(&self) -> Option<&Bytes> {
        self.result.as_ref()?.as_ref().ok()?.as_ref()
    }

    /// The value of a key of the global cache, when there is one.
    #[must_use]
    pub fn global_value(&self, key: &str) -> Option<&Bytes> {
        self.global(key)?.as_ref().ok()?.as_ref()
    }

    /// The answer to a key of the global cache, when it was asked for.
    #[must_use]
    pub fn global(&self, key: &str) -> Option<&CacheValue> {
        let mut all = self.global.iter();
        all.find(|(known, _)| known == key).map(|(_, value)| value)
    }
}

/// Shows hits and misses only: keys and values may identify people.
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

/// What became of a change to the caches: Aperture's `CacheUpsertResponse` and
/// `CacheDeleteResponse`.
///
/// ```
/// use tower_aperture::CacheChange;
///
/// assert!(CacheChange::default().result.is_none());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheChange {
    /// For the result cache, when it was to be changed.
    pub result: Option<Result<(), CacheRefusal>>,
    /// For each key of the global cache that was to be changed.
    pub global: Vec<(String, Result<(), CacheRefusal>)>,
}

/// Why a cache did not do what it was asked, in the words of an Agent.
///
/// ```
/// # #[cfg(feature = "embedded")] {
/// use tower_aperture::Engine;
///
/// let engine = Engine::builder().build().unwrap();
/// let looked = engine.cache_lookup("", "profile-42", []);
/// let refusal = looked.result.unwrap().unwrap_err();
/// assert_eq!(refusal.to_string(), "cache control_point cannot be empty");
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRefusal(Cow<'static, str>);

impl CacheRefusal {
    #[allow(dead_code)] // Only some backends have caches.
    pub(crate) fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self(text.into())
    }

    pub(crate) fn into_text(self) -> String {
        self.0.into_owned()
    }
}

impl fmt::Display for CacheRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for CacheRefusal {}
