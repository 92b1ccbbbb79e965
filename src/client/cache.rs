//! Result and global caches: lookups that came with a check, and calls of their own.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::decide::TicketKind;
use super::{ApertureClient, Backend, Flow};
use crate::flow::FlowError;

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
    /// The time to live is zero, which the Agent would read as seven days.
    NoTtl,
    /// The Agent answered without a part for the key.
    MissingInReply,
    /// What the Agent said against the operation.
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
            Self::Server(error) => write!(f, "the agent refused: {error}"),
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
        match &self.cache_barrier()?.0 {
            #[cfg(feature = "remote")]
            TicketKind::Remote(flow) => wire::looked_up(
                flow.response()
                    .cache_lookup_response
                    .as_ref()
                    .and_then(|lookup| lookup.result_cache_response.as_ref())
                    .ok_or(CacheError::NotRequested)?,
            ),
            #[allow(unreachable_patterns)]
            _ => Err(CacheError::Unsupported),
        }
    }

    /// The value of a global cache key, as it was when the flow started; `None` is a miss.
    ///
    /// # Errors
    ///
    /// When the flow was rejected or unreachable, or was started without this
    /// [`global_cache_key`](crate::FlowParams::global_cache_key).
    pub fn global_cache(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        match &self.cache_barrier()?.0 {
            #[cfg(feature = "remote")]
            TicketKind::Remote(flow) => wire::looked_up(
                flow.response()
                    .cache_lookup_response
                    .as_ref()
                    .ok_or(CacheError::NotRequested)?
                    .global_cache_responses
                    .get(key)
                    .ok_or(CacheError::UnknownKey)?,
            ),
            #[allow(unreachable_patterns)]
            _ => Err(CacheError::Unsupported),
        }
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
    /// When the flow has no key, or the Agent does not take the value.
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
    /// When the Agent does not take the value.
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

/// Calls to the caches that need no flow. Each takes no longer than the end timeout.
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
        match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => wire::result_cache(remote, control_point, key).await,
            _ => Err(CacheError::Unsupported),
        }
    }

    /// Stores a value in the result cache of a control point for `ttl`, which the Agent keeps to
    /// the millisecond and cuts at seven days.
    ///
    /// # Errors
    ///
    /// When the key is empty, `ttl` is zero, or the Agent does not take the value.
    pub async fn set_result_cache(
        &self,
        control_point: &str,
        key: &str,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<(), CacheError> {
        check_key(key)?;
        check_ttl(ttl)?;
        match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => {
                wire::set_result_cache(remote, control_point, key, value.into(), ttl).await
            }
            _ => Err(CacheError::Unsupported),
        }
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
        match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => wire::delete_result_cache(remote, control_point, key).await,
            _ => Err(CacheError::Unsupported),
        }
    }

    /// Reads the global cache, which all control points share; `None` is a miss.
    ///
    /// # Errors
    ///
    /// When the Agent does not answer, or refuses.
    pub async fn global_cache(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        check_key(key)?;
        match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => wire::global_cache(remote, key).await,
            _ => Err(CacheError::Unsupported),
        }
    }

    /// Stores a value in the global cache for `ttl`, which the Agent keeps to the millisecond and
    /// cuts at seven days.
    ///
    /// # Errors
    ///
    /// When the key is empty, `ttl` is zero, or the Agent does not take the value.
    pub async fn set_global_cache(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<(), CacheError> {
        check_key(key)?;
        check_ttl(ttl)?;
        match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => wire::set_global_cache(remote, key, value.into(), ttl).await,
            _ => Err(CacheError::Unsupported),
        }
    }

    /// Deletes a value from the global cache; a missing one is no error.
    ///
    /// # Errors
    ///
    /// When the key is empty, or the Agent does not answer.
    pub async fn delete_global_cache(&self, key: &str) -> Result<(), CacheError> {
        check_key(key)?;
        match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => wire::delete_global_cache(remote, key).await,
            _ => Err(CacheError::Unsupported),
        }
    }
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

/// The Agent's messages. A part that is absent is never read as a hit or as a success.
#[cfg(feature = "remote")]
mod wire {
    use std::time::Duration;

    use bytes::Bytes;

    use super::CacheError;
    use crate::pb::check::{
        CacheDeleteRequest, CacheEntry, CacheLookupRequest, CacheLookupStatus,
        CacheOperationStatus, CacheUpsertRequest, KeyDeleteResponse, KeyLookupResponse,
        KeyUpsertResponse,
    };
    use crate::remote::Remote;

    pub(super) fn looked_up(reply: &KeyLookupResponse) -> Result<Option<Bytes>, CacheError> {
        done(reply.operation_status, &reply.error)?;
        let hit = reply.lookup_status == CacheLookupStatus::Hit as i32;
        Ok(hit.then(|| reply.value.clone()))
    }

    fn done(status: i32, error: &str) -> Result<(), CacheError> {
        if status == CacheOperationStatus::Success as i32 && error.is_empty() {
            return Ok(());
        }
        Err(CacheError::Server(error.to_owned()))
    }

    fn upserted(reply: Option<&KeyUpsertResponse>) -> Result<(), CacheError> {
        let reply = reply.ok_or(CacheError::MissingInReply)?;
        done(reply.operation_status, &reply.error)
    }

    fn deleted(reply: Option<&KeyDeleteResponse>) -> Result<(), CacheError> {
        let reply = reply.ok_or(CacheError::MissingInReply)?;
        done(reply.operation_status, &reply.error)
    }

    fn entry(key: &str, value: Bytes, ttl: Duration) -> CacheEntry {
        CacheEntry {
            key: key.to_owned(),
            value,
            // A time beyond the message's range is far beyond the seven days that are kept.
            ttl: ttl.try_into().ok(),
        }
    }

    pub(super) async fn result_cache(
        remote: &Remote,
        control_point: &str,
        key: &str,
    ) -> Result<Option<Bytes>, CacheError> {
        let request = CacheLookupRequest {
            control_point: control_point.to_owned(),
            result_cache_key: key.to_owned(),
            global_cache_keys: Vec::new(),
        };
        let reply = remote
            .cache_lookup(request)
            .await
            .map_err(CacheError::Call)?;
        looked_up(
            reply
                .result_cache_response
                .as_ref()
                .ok_or(CacheError::MissingInReply)?,
        )
    }

    pub(super) async fn global_cache(
        remote: &Remote,
        key: &str,
    ) -> Result<Option<Bytes>, CacheError> {
        let request = CacheLookupRequest {
            global_cache_keys: vec![key.to_owned()],
            ..CacheLookupRequest::default()
        };
        let reply = remote
            .cache_lookup(request)
            .await
            .map_err(CacheError::Call)?;
        looked_up(
            reply
                .global_cache_responses
                .get(key)
                .ok_or(CacheError::MissingInReply)?,
        )
    }

    pub(super) async fn set_result_cache(
        remote: &Remote,
        control_point: &str,
        key: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<(), CacheError> {
        let request = CacheUpsertRequest {
            control_point: control_point.to_owned(),
            result_cache_entry: Some(entry(key, value, ttl)),
            ..CacheUpsertRequest::default()
        };
        let reply = remote
            .cache_upsert(request)
            .await
            .map_err(CacheError::Call)?;
        upserted(reply.result_cache_response.as_ref())
    }

    pub(super) async fn set_global_cache(
        remote: &Remote,
        key: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<(), CacheError> {
        let request = CacheUpsertRequest {
            global_cache_entries: [(key.to_owned(), entry(key, value, ttl))].into(),
            ..CacheUpsertRequest::default()
        };
        let reply = remote
            .cache_upsert(request)
            .await
            .map_err(CacheError::Call)?;
        upserted(reply.global_cache_responses.get(key))
    }

    pub(super) async fn delete_result_cache(
        remote: &Remote,
        control_point: &str,
        key: &str,
    ) -> Result<(), CacheError> {
        let request = CacheDeleteRequest {
            control_point: control_point.to_owned(),
            result_cache_key: key.to_owned(),
            global_cache_keys: Vec::new(),
        };
        let reply = remote
            .cache_delete(request)
            .await
            .map_err(CacheError::Call)?;
        deleted(reply.result_cache_response.as_ref())
    }

    pub(super) async fn delete_global_cache(remote: &Remote, key: &str) -> Result<(), CacheError> {
        let request = CacheDeleteRequest {
            global_cache_keys: vec![key.to_owned()],
            ..CacheDeleteRequest::default()
        };
        let reply = remote
            .cache_delete(request)
            .await
            .map_err(CacheError::Call)?;
        deleted(reply.global_cache_responses.get(key))
    }
}
