//! Access to one key of a cache by a client, without a flow.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::lookup::into_result;
use super::write::check_key;
use crate::client::backend::{AnyBackend, CacheBackend};
use crate::client::shared::{ApertureClient, Inner};
use crate::flow::{CacheError, CacheKey, CacheLookup};
use crate::meter::Meter;

/// Access to one key of the result cache or the global cache, without a flow.
///
/// [`ApertureClient::result_cache`] and [`ApertureClient::global_cache`] return it. With an Agent,
/// each call takes no longer than the end timeout. In process, its future is ready at once, unless
/// the engine has its caches in a shared store: then it takes no longer than the deadline of the
/// store.
///
/// ```
/// use std::time::Duration;
///
/// use tower_aperture::ApertureClient;
/// use tower_aperture::cache::CacheError;
///
/// # #[cfg(feature = "embedded")] {
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let client = ApertureClient::embedded(tower_aperture::Engine::builder().build().unwrap());
/// let settings = client.global_cache("settings");
/// assert_eq!(settings.get().await, Ok(None)); // a miss
/// settings.set("dark", Duration::from_secs(60)).await?;
/// assert_eq!(settings.get().await?.as_deref(), Some(&b"dark"[..]));
/// settings.delete().await?;
/// # Ok::<(), CacheError>(())
/// # }).unwrap();
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct ClientCache<'a> {
    client: &'a Inner,
    key: CacheKey<'a>,
}

/// Access to the caches without a flow.
impl ApertureClient {
    /// Returns the access to a key of the result cache of a control point.
    #[must_use]
    pub fn result_cache<'a>(&'a self, control_point: &'a str, key: &'a str) -> ClientCache<'a> {
        self.cache(CacheKey::Result { control_point, key })
    }

    /// Returns the access to a key of the global cache, which all control points share.
    #[must_use]
    pub fn global_cache<'a>(&'a self, key: &'a str) -> ClientCache<'a> {
        self.cache(CacheKey::Global { key })
    }

    pub(super) fn cache<'a>(&'a self, key: CacheKey<'a>) -> ClientCache<'a> {
        ClientCache {
            client: &self.inner,
            key,
        }
    }
}

impl ClientCache<'_> {
    /// Looks the value up; `None` is a miss.
    ///
    /// # Errors
    ///
    /// Returns an error if the key is empty, or the Agent, or the shared store of an engine, does not
    /// answer or refuses the lookup.
    pub async fn get(self) -> Result<Option<Bytes>, CacheError> {
        let Self { client, key } = self;
        check_key(key.as_str())?;
        let lookup: CacheLookup = match &client.backend {
            AnyBackend::Embedded(backend) => backend.lookup(key).await?,
            AnyBackend::Remote(backend) => backend.lookup(key).await?,
            AnyBackend::Disabled | AnyBackend::Scripted(_) => return Err(CacheError::Unsupported),
        };
        let value = match key {
            CacheKey::Result { .. } => lookup.result.as_ref(),
            CacheKey::Global { key } => lookup.global(key),
        };
        let value = value.ok_or(CacheError::MissingInReply)?;
        match key {
            CacheKey::Result { .. } => client.meter.count_result_lookup(value.into()),
            CacheKey::Global { .. } => client.meter.count_global_lookup(value.into()),
        }
        into_result(value.clone())
    }

    /// Stores a value for `ttl`, which has a precision of a millisecond and is capped at seven
    /// days.
    ///
    /// # Errors
    ///
    /// Returns an error if the key is empty, `ttl` is zero, the Agent or the shared store does not
    /// answer, or the Agent or engine refuses the value: it is limited to about 1 MiB, and the key to
    /// about 200 bytes.
    pub async fn set(self, value: impl Into<Bytes>, ttl: Duration) -> Result<(), CacheError> {
        self.client.write(self.key, value.into(), ttl).await
    }

    /// Deletes the value; a missing value is no error.
    ///
    /// # Errors
    ///
    /// Returns an error if the key is empty, or the Agent or the shared store does not answer.
    pub async fn delete(self) -> Result<(), CacheError> {
        self.client.remove(self.key).await
    }
}

/// Omits the key, because it may identify a person.
impl fmt::Debug for ClientCache<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCache").finish_non_exhaustive()
    }
}
