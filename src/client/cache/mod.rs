//! Result and global caches: lookups that came with a check, and calls of their own.

#[cfg(feature = "remote")]
pub(super) mod wire;

use std::error::Error;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::{ApertureClient, Backend, Flow};
#[cfg(feature = "embedded")]
use crate::engine::CacheEntry;
use crate::flow::{CacheChange, CacheLookup, CacheRefusal, CacheValue, FlowError};

/// Why a cache gave nothing, apart from a plain miss.
///
/// ```
/// use tower_aperture::{ApertureClient, CacheError, FlowParams};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let client = ApertureClient::disabled();
/// let params = FlowParams::new().result_cache_key("profile-42");
/// let flow = client.start_flow("profile", params).await;
/// assert!(matches!(flow.result_cache(), Err(CacheError::Unreachable(_))));
/// # });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheError {
    /// The flow was rejected: nothing was looked up.
    FlowRejected,
    /// Nobody answered for the flow.
    Unreachable(FlowError),
    /// The flow was started without a cache key, or its answer has no part for it.
    NotRequested,
    /// The flow was started without this global cache key.
    UnknownKey,
    /// There is no result cache key to write to, or it is empty.
    NoKey,
    /// The time to live is zero, which would be read as seven days.
    NoTtl,
    /// The Agent answered without a part for the key.
    MissingInReply,
    /// What the Agent, or the engine, said against the operation.
    Server(String),
    /// The call failed.
    Call(FlowError),
    /// The client has no caches behind it.
    Unsupported,
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FlowRejected => f.write_str("the flow was rejected, nothing was looked up"),
            Self::Unreachable(error) => write!(f, "nobody answered for the flow: {error}"),
            Self::NotRequested => f.write_str("the flow was started without a cache key"),
            Self::UnknownKey => f.write_str("the flow was started without this global cache key"),
            Self::NoKey => f.write_str("there is no cache key"),
            Self::NoTtl => f.write_str("the time to live is zero"),
            Self::MissingInReply => f.write_str("the agent's answer has no part for the key"),
            Self::Server(error) => write!(f, "the cache refused: {error}"),
            Self::Call(error) => write!(f, "the cache call failed: {error}"),
            Self::Unsupported => f.write_str("this client has no caches"),
        }
    }
}

impl Error for CacheError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unreachable(error) | Self::Call(error) => Some(error),
            _ => None,
        }
    }
}

impl Flow {
    /// The value of the result cache key, as it was when the flow started; `None` is a miss.
    ///
    /// # Errors
    ///
    /// When the flow was rejected or unreachable, or was started without
    /// [`result_cache_key`](crate::FlowParams::result_cache_key).
    pub fn result_cache(&self) -> Result<Option<Bytes>, CacheError> {
        let lookup = self.looked_up()?;
        let value = lookup.result.as_ref().ok_or(CacheError::NotRequested)?;
        read(value.clone())
    }

    /// The value of a global cache key, as it was when the flow started; `None` is a miss.
    ///
    /// # Errors
    ///
    /// When the flow was rejected or unreachable, or was started without this
    /// [`global_cache_key`](crate::FlowParams::global_cache_key).
    pub fn global_cache(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        let lookup = self.looked_up()?;
        read(lookup.global(key).ok_or(CacheError::UnknownKey)?.clone())
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
    /// When the flow has no key, or the value is not taken.
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
    /// When the flow has no key, or the Agent does not answer.
    pub async fn delete_result_cache(&self) -> Result<(), CacheError> {
        self.client
            .delete_result_cache(&self.control_point, self.result_key()?)
            .await
    }

    /// Stores a value in the global cache, see [`ApertureClient::set_global_cache`].
    ///
    /// # Errors
    ///
    /// When the value is not taken.
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
    /// When the Agent does not answer.
    pub async fn delete_global_cache(&self, key: &str) -> Result<(), CacheError> {
        self.client.delete_global_cache(key).await
    }
}

/// Calls to the caches that need no flow. With an Agent each takes no longer than the end
/// timeout; in process the future is ready at once.
impl ApertureClient {
    /// Reads the result cache of a control point; `None` is a miss.
    ///
    /// # Errors
    ///
    /// When the Agent does not answer, or refuses.
    pub async fn result_cache(
        &self,
        control_point: &str,
        key: &str,
    ) -> Result<Option<Bytes>, CacheError> {
        check_key(key)?;
        let lookup: CacheLookup = match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => wire::lookup(remote, control_point, key, None).await?,
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => engine.cache_lookup(control_point, key, []),
            _ => return Err(CacheError::Unsupported),
        };
        let value = lookup.result.ok_or(CacheError::MissingInReply)?;
        self.inner.meter.looked_up_result(&value);
        read(value)
    }

    /// Stores a value in the result cache of a control point for `ttl`, which is kept to the
    /// millisecond and cut at seven days.
    ///
    /// # Errors
    ///
    /// When the key is empty, `ttl` is zero, or the Agent or engine does not take the value: it
    /// is limited to about 1 MiB, and the key to about 200 bytes.
    pub async fn set_result_cache(
        &self,
        control_point: &str,
        key: &str,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<(), CacheError> {
        check_key(key)?;
        check_ttl(ttl)?;
        let value = value.into();
        let change: CacheChange = match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => {
                wire::upsert(remote, Some(control_point), key, value, ttl).await?
            }
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => {
                let entry = CacheEntry::new(key, &value).ttl(Some(ttl));
                engine.cache_upsert(control_point, Some(entry), [])
            }
            _ => return Err(CacheError::Unsupported),
        };
        done(change.result)
    }

    /// Deletes a value from the result cache of a control point; a missing one is no error.
    ///
    /// # Errors
    ///
    /// When the key is empty, or the Agent does not answer.
    pub async fn delete_result_cache(
        &self,
        control_point: &str,
        key: &str,
    ) -> Result<(), CacheError> {
        check_key(key)?;
        let change: CacheChange = match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => wire::delete(remote, control_point, key, None).await?,
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => engine.cache_delete(control_point, key, []),
            _ => return Err(CacheError::Unsupported),
        };
        done(change.result)
    }

    /// Reads the global cache, which all control points share; `None` is a miss.
    ///
    /// # Errors
    ///
    /// When the Agent does not answer, or refuses.
    pub async fn global_cache(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        check_key(key)?;
        let lookup: CacheLookup = match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => wire::lookup(remote, "", "", Some(key)).await?,
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => engine.cache_lookup("", "", [key]),
            _ => return Err(CacheError::Unsupported),
        };
        let value = lookup.global(key).ok_or(CacheError::MissingInReply)?;
        self.inner.meter.looked_up_global(value);
        read(value.clone())
    }

    /// Stores a value in the global cache for `ttl`, which is kept to the millisecond and cut at
    /// seven days.
    ///
    /// # Errors
    ///
    /// When the key is empty, `ttl` is zero, or the Agent or engine does not take the value: it
    /// is limited to about 1 MiB, and the key to about 200 bytes.
    pub async fn set_global_cache(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<(), CacheError> {
        check_key(key)?;
        check_ttl(ttl)?;
        let value = value.into();
        let change: CacheChange = match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => wire::upsert(remote, None, key, value, ttl).await?,
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => {
                engine.cache_upsert("", None, [CacheEntry::new(key, &value).ttl(Some(ttl))])
            }
            _ => return Err(CacheError::Unsupported),
        };
        done(of(change.global, key))
    }

    /// Deletes a value from the global cache; a missing one is no error.
    ///
    /// # Errors
    ///
    /// When the key is empty, or the Agent does not answer.
    pub async fn delete_global_cache(&self, key: &str) -> Result<(), CacheError> {
        check_key(key)?;
        let change: CacheChange = match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => wire::delete(remote, "", "", Some(key)).await?,
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => engine.cache_delete("", "", [key]),
            _ => return Err(CacheError::Unsupported),
        };
        done(of(change.global, key))
    }
}

fn read(value: CacheValue) -> Result<Option<Bytes>, CacheError> {
    value.map_err(|refusal| CacheError::Server(refusal.into_text()))
}

fn of<T>(answers: Vec<(String, T)>, key: &str) -> Option<T> {
    let mut answers = answers.into_iter();
    answers
        .find(|(known, _)| known == key)
        .map(|(_, answer)| answer)
}

fn done(answer: Option<Result<(), CacheRefusal>>) -> Result<(), CacheError> {
    answer
        .ok_or(CacheError::MissingInReply)?
        .map_err(|refusal| CacheError::Server(refusal.into_text()))
}

const fn check_key(key: &str) -> Result<(), CacheError> {
    if key.is_empty() {
        return Err(CacheError::NoKey);
    }
    Ok(())
}

const fn check_ttl(ttl: Duration) -> Result<(), CacheError> {
    if ttl.is_zero() {
        return Err(CacheError::NoTtl);
    }
    Ok(())
}
