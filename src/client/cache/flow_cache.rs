//! Access to one key of a cache by a flow, which has the result of the lookup at its start.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::into_result;
#[cfg(feature = "remote")]
use super::messages;
use crate::client::{ApertureClient, Flow};
use crate::flow::{CacheError, CacheKey, CacheLookup, CacheValue, Caches};
#[cfg(feature = "remote")]
use crate::pb::check::CacheLookupResponse;

/// Access to one key of the result cache or the global cache, by a flow.
///
/// [`Flow`] and [`FlowHandle`](crate::layer::FlowHandle) return it from `result_cache` and
/// `global_cache`. It has the value at the start of the flow; changes do not alter that value.
///
/// ```
/// use std::time::Duration;
///
/// use tower_aperture::FlowParams;
/// use tower_aperture::cache::CacheError;
///
/// # #[cfg(feature = "embedded")] {
/// # use tower_aperture::{ApertureClient, Engine};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let client = ApertureClient::embedded(Engine::builder().build().unwrap());
/// let params = FlowParams::new().result_cache_key("profile-42");
/// let flow = client.start_flow("profile", params).await;
/// let profile = flow.result_cache();
/// if profile.get()?.is_none() {
///     profile.set("Ann", Duration::from_secs(60)).await?;
/// }
/// flow.result_cache().delete().await?;
/// # Ok::<(), CacheError>(())
/// # }).unwrap();
/// # }
/// ```
#[derive(Clone)]
pub struct FlowCache<'a> {
    found: Result<Option<Bytes>, CacheError>,
    key: Result<CacheKey<'a>, CacheError>,
    caches: CacheAccess<'a>,
}

#[derive(Clone, Copy)]
enum CacheAccess<'a> {
    Client(&'a ApertureClient),
    /// The caches of a layer's decider, if it has any.
    Decider(Option<&'a dyn Caches>),
}

impl<'a> FlowCache<'a> {
    /// Returns the access of a layer's flow to its key of the result cache, if it has one.
    pub(crate) fn result_of_decider(
        lookup: &CacheLookup,
        key: Option<CacheKey<'a>>,
        caches: Option<&'a dyn Caches>,
    ) -> Self {
        Self {
            found: FlowLookup::Read(lookup).result(),
            key: key.ok_or(CacheError::NoKey),
            caches: CacheAccess::Decider(caches),
        }
    }

    /// Returns the access of a layer's flow to a key of the global cache.
    pub(crate) fn global_of_decider(
        lookup: &CacheLookup,
        key: &'a str,
        caches: Option<&'a dyn Caches>,
    ) -> Self {
        Self {
            found: FlowLookup::Read(lookup).global(key),
            key: Ok(CacheKey::Global { key }),
            caches: CacheAccess::Decider(caches),
        }
    }

    /// Returns the value at the start of the flow; `None` is a miss.
    ///
    /// # Errors
    ///
    /// Returns an error if the flow was rejected or unreachable, its check did not look the key up
    /// ([`result_cache_key`](crate::FlowParams::result_cache_key) and
    /// [`global_cache_key`](crate::FlowParams::global_cache_key) set the keys), or the cache refused
    /// the lookup.
    pub fn get(&self) -> Result<Option<Bytes>, CacheError> {
        self.found.clone()
    }

    /// Stores a value for `ttl`, like [`ClientCache::set`](super::ClientCache::set). Also works
    /// after a layer's flow has ended, because the caches outlive it.
    ///
    /// # Errors
    ///
    /// Returns an error if the flow has no such key, the value is refused, or the client has no
    /// caches.
    pub async fn set(self, value: impl Into<Bytes>, ttl: Duration) -> Result<(), CacheError> {
        let key = self.key?;
        match self.caches {
            CacheAccess::Client(client) => client.cache(key).set(value, ttl).await,
            CacheAccess::Decider(caches) => {
                let caches = caches.ok_or(CacheError::Unsupported)?;
                caches.set(key, value.into(), ttl).await
            }
        }
    }

    /// Deletes the value; a missing value is no error.
    ///
    /// # Errors
    ///
    /// Returns an error if the flow has no such key, the Agent does not answer, or the client has no
    /// caches.
    pub async fn delete(self) -> Result<(), CacheError> {
        let key = self.key?;
        match self.caches {
            CacheAccess::Client(client) => client.cache(key).delete().await,
            CacheAccess::Decider(caches) => {
                caches.ok_or(CacheError::Unsupported)?.delete(key).await
            }
        }
    }
}

/// The result of the cache lookup of a flow.
pub(in crate::client) enum FlowLookup<'a> {
    Read(&'a CacheLookup),
    /// The Agent's message, of which only the required part is read.
    #[cfg(feature = "remote")]
    Message(&'a CacheLookupResponse),
}

impl FlowLookup<'_> {
    fn result(&self) -> Result<Option<Bytes>, CacheError> {
        let value = match self {
            Self::Read(lookup) => lookup.result.clone(),
            #[cfg(feature = "remote")]
            Self::Message(reply) => messages::result_value(reply),
        };
        into_result(value.ok_or(CacheError::NotRequested)?)
    }

    fn global(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        let value: Option<CacheValue> = match self {
            Self::Read(lookup) => lookup.global(key).cloned(),
            #[cfg(feature = "remote")]
            Self::Message(reply) => messages::global_value(reply, key),
        };
        into_result(value.ok_or(CacheError::UnknownKey)?)
    }
}

impl Flow {
    /// Returns the access to the flow's key of the result cache,
    /// [`FlowParams::result_cache_key`](crate::FlowParams::result_cache_key).
    #[must_use]
    pub fn result_cache(&self) -> FlowCache<'_> {
        let key = self.result_cache_key.as_deref();
        FlowCache {
            found: self.cache_lookup().and_then(|lookup| lookup.result()),
            key: key
                .filter(|key| !key.is_empty())
                .ok_or(CacheError::NoKey)
                .map(|key| CacheKey::Result {
                    control_point: &self.control_point,
                    key,
                }),
            caches: CacheAccess::Client(&self.client),
        }
    }

    /// Returns the access to a key of the global cache. The flow has its value only if the key is
    /// one of its [global cache keys](crate::FlowParams::global_cache_key).
    #[must_use]
    pub fn global_cache<'a>(&'a self, key: &'a str) -> FlowCache<'a> {
        FlowCache {
            found: self.cache_lookup().and_then(|lookup| lookup.global(key)),
            key: Ok(CacheKey::Global { key }),
            caches: CacheAccess::Client(&self.client),
        }
    }
}

/// Omits keys and values, because they may identify people.
impl fmt::Debug for FlowCache<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowCache").finish_non_exhaustive()
    }
}
