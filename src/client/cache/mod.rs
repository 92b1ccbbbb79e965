//! The result cache and the global cache: lookups with a check, and separate calls.

#[cfg(feature = "remote")]
pub(super) mod messages;
mod write;

use std::time::Duration;

use bytes::Bytes;

use super::{ApertureClient, Backend, Flow};
use crate::flow::{CacheError, CacheLookup, CachePlace, CacheValue};

impl Flow {
    /// Returns the value of the result cache key at the start of the flow; `None` is a miss.
    ///
    /// # Errors
    ///
    /// Returns an error if the flow was rejected or unreachable, was started without
    /// [`result_cache_key`](crate::FlowParams::result_cache_key), or the cache refused the lookup.
    pub fn result_cache(&self) -> Result<Option<Bytes>, CacheError> {
        let lookup = self.cache_lookup()?;
        let value = lookup.result.as_ref().ok_or(CacheError::NotRequested)?;
        into_result(value.clone())
    }

    /// Returns the value of a global cache key at the start of the flow; `None` is a miss.
    ///
    /// # Errors
    ///
    /// Returns an error if the flow was rejected or unreachable, was started without this
    /// [`global_cache_key`](crate::FlowParams::global_cache_key), or the cache refused the lookup.
    pub fn global_cache(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        let lookup = self.cache_lookup()?;
        into_result(lookup.global(key).ok_or(CacheError::UnknownKey)?.clone())
    }

    fn result_key(&self) -> Result<&str, CacheError> {
        self.result_cache_key
            .as_deref()
            .filter(|key| !key.is_empty())
            .ok_or(CacheError::NoKey)
    }

    /// Stores a value under the flow's result cache key, see
    /// [`ApertureClient::set_result_cache`].
    ///
    /// # Errors
    ///
    /// Returns an error if the flow has no key or the value cannot be stored.
    pub async fn set_result_cache(
        &self,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<(), CacheError> {
        self.client
            .set_result_cache(&self.control_point, self.result_key()?, value, ttl)
            .await
    }

    /// Deletes the value under the flow's result cache key.
    ///
    /// # Errors
    ///
    /// Returns an error if the flow has no key or the Agent does not answer.
    pub async fn delete_result_cache(&self) -> Result<(), CacheError> {
        self.client
            .delete_result_cache(&self.control_point, self.result_key()?)
            .await
    }

    /// Stores a value in the global cache, see [`ApertureClient::set_global_cache`].
    ///
    /// # Errors
    ///
    /// Returns an error if the value cannot be stored.
    pub async fn set_global_cache(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<(), CacheError> {
        self.client.set_global_cache(key, value, ttl).await
    }

    /// Deletes a value of the global cache.
    ///
    /// # Errors
    ///
    /// Returns an error if the key is empty or the Agent does not answer.
    pub async fn delete_global_cache(&self, key: &str) -> Result<(), CacheError> {
        self.client.delete_global_cache(key).await
    }
}

/// Calls to the caches without a flow. With an Agent, each takes no longer than the end timeout; in
/// process, the future is ready at once.
impl ApertureClient {
    /// Reads the result cache of a control point; `None` is a miss.
    ///
    /// # Errors
    ///
    /// Returns an error if the key is empty, or the Agent does not answer or refuses the lookup.
    pub async fn result_cache(
        &self,
        control_point: &str,
        key: &str,
    ) -> Result<Option<Bytes>, CacheError> {
        check_key(key)?;
        let lookup: CacheLookup = match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => messages::lookup(remote, control_point, key, None).await?,
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => engine.cache_lookup(control_point, key, []),
            _ => return Err(CacheError::Unsupported),
        };
        let value = lookup.result.ok_or(CacheError::MissingInReply)?;
        self.inner.meter.count_result_lookup(&value);
        into_result(value)
    }

    /// Stores a value in the result cache of a control point for `ttl`, which has a precision of a
    /// millisecond and is capped at seven days.
    ///
    /// # Errors
    ///
    /// Returns an error if the key is empty, `ttl` is zero, or the Agent or engine refuses the
    /// value: it is limited to about 1 MiB, and the key to about 200 bytes.
    pub async fn set_result_cache(
        &self,
        control_point: &str,
        key: &str,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<(), CacheError> {
        let place = CachePlace::Result { control_point, key };
        self.inner.write(place, value.into(), ttl).await
    }

    /// Deletes a value from the result cache of a control point; a missing value is no error.
    ///
    /// # Errors
    ///
    /// Returns an error if the key is empty or the Agent does not answer.
    pub async fn delete_result_cache(
        &self,
        control_point: &str,
        key: &str,
    ) -> Result<(), CacheError> {
        let place = CachePlace::Result { control_point, key };
        self.inner.remove(place).await
    }

    /// Reads the global cache, which all control points share; `None` is a miss.
    ///
    /// # Errors
    ///
    /// Returns an error if the key is empty, or the Agent does not answer or refuses the lookup.
    pub async fn global_cache(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        check_key(key)?;
        let lookup: CacheLookup = match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => messages::lookup(remote, "", "", Some(key)).await?,
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => engine.cache_lookup("", "", [key]),
            _ => return Err(CacheError::Unsupported),
        };
        let value = lookup.global(key).ok_or(CacheError::MissingInReply)?;
        self.inner.meter.count_global_lookup(value);
        into_result(value.clone())
    }

    /// Stores a value in the global cache for `ttl`, which has a precision of a millisecond and is
    /// capped at seven days.
    ///
    /// # Errors
    ///
    /// Returns an error if the key is empty, `ttl` is zero, or the Agent or engine refuses the
    /// value: it is limited to about 1 MiB, and the key to about 200 bytes.
    pub async fn set_global_cache(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<(), CacheError> {
        let place = CachePlace::Global { key };
        self.inner.write(place, value.into(), ttl).await
    }

    /// Deletes a value from the global cache; a missing value is no error.
    ///
    /// # Errors
    ///
    /// Returns an error if the key is empty or the Agent does not answer.
    pub async fn delete_global_cache(&self, key: &str) -> Result<(), CacheError> {
        self.inner.remove(CachePlace::Global { key }).await
    }
}

fn into_result(value: CacheValue) -> Result<Option<Bytes>, CacheError> {
    value.map_err(|refusal| CacheError::Server(refusal.into_text()))
}

const fn check_key(key: &str) -> Result<(), CacheError> {
    if key.is_empty() {
        return Err(CacheError::NoKey);
    }
    Ok(())
}
