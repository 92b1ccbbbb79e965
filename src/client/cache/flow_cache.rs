//! Access to one key of a cache by a flow, which has the result of the lookup at its start.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::lookup::{ReadLookup, read_global, read_result};
use crate::client::shared::ApertureClient;
use crate::flow::{CacheError, CacheKey, CacheLookup, Caches};

/// Access to one key of the result cache or the global cache, by a flow.
///
/// [`Flow`](crate::Flow) and [`FlowHandle`](crate::layer::FlowHandle) return it from `result_cache`
/// and `global_cache`. It has the value at the start of the flow; changes do not alter that value.
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
    /// Returns the access of a client's flow to its key of the result cache, if it has one.
    pub(in crate::client) fn result_of_client(
        lookup: Result<&dyn ReadLookup, CacheError>,
        key: Option<CacheKey<'a>>,
        client: &'a ApertureClient,
    ) -> Self {
        Self {
            found: lookup.and_then(read_result),
            key: key.ok_or(CacheError::NoKey),
            caches: CacheAccess::Client(client),
        }
    }

    /// Returns the access of a client's flow to a key of the global cache.
    pub(in crate::client) fn global_of_client(
        lookup: Result<&dyn ReadLookup, CacheError>,
        key: &'a str,
        client: &'a ApertureClient,
    ) -> Self {
        Self {
            found: lookup.and_then(|lookup| read_global(lookup, key)),
            key: Ok(CacheKey::Global { key }),
            caches: CacheAccess::Client(client),
        }
    }

    /// Returns the access of a layer's flow to its key of the result cache, if it has one.
    pub(crate) fn result_of_decider(
        lookup: &CacheLookup,
        key: Option<CacheKey<'a>>,
        caches: Option<&'a dyn Caches>,
    ) -> Self {
        Self {
            found: read_result(lookup),
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
            found: read_global(lookup, key),
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

    /// Stores a value for `ttl`, like [`ClientCache::set`](crate::cache::ClientCache::set). Also works
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

/// Omits keys and values, because they may identify people.
impl fmt::Debug for FlowCache<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowCache").finish_non_exhaustive()
    }
}
