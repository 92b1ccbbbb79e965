//! The interface of the caches behind a decider, and its errors.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use super::{FlowError, Invalidations, PendingInvalidation};

/// The caches behind a decider, in which the layer stores responses and handlers store values.
///
/// An `ApertureClient` implements it; your own decider may provide one.
///
/// ```
/// use std::collections::HashMap;
/// use std::future::ready;
/// use std::sync::Mutex;
/// use std::time::Duration;
///
/// use bytes::Bytes;
/// use tower_aperture::cache::{CacheCall, CacheKey, Caches, Invalidations, PendingInvalidation};
///
/// /// Keeps all values for ever.
/// #[derive(Default)]
/// struct MemoryCaches {
///     values: Mutex<HashMap<String, Bytes>>,
///     invalidations: Invalidations,
/// }
///
/// impl Caches for MemoryCaches {
///     fn set<'a>(&'a self, key: CacheKey<'a>, value: Bytes, ttl: Duration) -> CacheCall<'a> {
///         self.set_later(key, value, ttl);
///         Box::pin(ready(Ok(())))
///     }
///
///     fn delete<'a>(&'a self, key: CacheKey<'a>) -> CacheCall<'a> {
///         self.delete_later(key);
///         Box::pin(ready(Ok(())))
///     }
///
///     fn set_later(&self, key: CacheKey<'_>, value: Bytes, _: Duration) {
///         self.values.lock().unwrap().insert(format!("{key:?}"), value);
///     }
///
///     fn delete_later(&self, key: CacheKey<'_>) {
///         self.values.lock().unwrap().remove(&format!("{key:?}"));
///     }
///
///     /// Deletes at once; a remote cache calls `succeeded` when the response has arrived.
///     fn invalidate_later(&self, key: CacheKey<'_>, pending: PendingInvalidation) {
///         self.delete_later(key);
///         pending.succeeded();
///     }
///
///     fn invalidations(&self) -> Option<&Invalidations> {
///         Some(&self.invalidations)
///     }
/// }
/// ```
pub trait Caches: Send + Sync {
    /// Stores a value for `ttl`.
    fn set<'a>(&'a self, key: CacheKey<'a>, value: Bytes, ttl: Duration) -> CacheCall<'a>;

    /// Deletes a value; a missing value is no error.
    fn delete<'a>(&'a self, key: CacheKey<'a>) -> CacheCall<'a>;

    /// Stores a value for `ttl` in the background.
    ///
    /// The call must not block, and may run during a drop. The implementation counts the changes
    /// that it loses.
    fn set_later(&self, key: CacheKey<'_>, value: Bytes, ttl: Duration);

    /// Deletes a value in the background, under the conditions of [`set_later`](Self::set_later).
    fn delete_later(&self, key: CacheKey<'_>);

    /// Deletes, in the background, a response that a successful request with an unsafe method has
    /// invalidated. The layer does not use the cache for the key until
    /// [`pending.succeeded()`](PendingInvalidation::succeeded) is called.
    ///
    /// The default calls [`delete_later`](Self::delete_later) and reports success at once.
    fn invalidate_later(&self, key: CacheKey<'_>, pending: PendingInvalidation) {
        self.delete_later(key);
        pending.succeeded();
    }

    /// Returns the invalidations that all layers over these caches share. The default is `None`:
    /// each layer then has its own and does not see those of others.
    fn invalidations(&self) -> Option<&Invalidations> {
        None
    }

    /// Counts the use of a stored response by the layer. The default does nothing.
    fn note(&self, event: CacheEvent) {
        let _ = event;
    }
}

/// The future of a change to a cache.
///
/// See [`Caches`] for an example.
pub type CacheCall<'a> = Pin<Box<dyn Future<Output = Result<(), CacheError>> + Send + 'a>>;

/// A key, with the cache that it belongs to.
///
/// See [`Caches`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheKey<'a> {
    /// A key of the result cache of a control point.
    Result {
        /// The control point.
        control_point: &'a str,
        /// The key.
        key: &'a str,
    },
    /// A key of the global cache, which all control points share.
    Global {
        /// The key.
        key: &'a str,
    },
}

impl<'a> CacheKey<'a> {
    /// Returns the text of the key, of either cache.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        match self {
            Self::Result { key, .. } | Self::Global { key } => key,
        }
    }
}

/// What the layer did with a value of the result cache.
///
/// ```
/// use tower_aperture::cache::CacheEvent;
///
/// assert_ne!(CacheEvent::Answered, CacheEvent::Unreadable);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheEvent {
    /// The layer answered a request with it.
    Answered,
    /// The value is not a response that this version of the layer stored.
    Unreadable,
}

/// Why a cache operation failed; a miss is not an error.
///
/// ```
/// use tower_aperture::cache::CacheError;
/// use tower_aperture::{ApertureClient, FlowParams};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let client = ApertureClient::disabled();
/// let params = FlowParams::new().result_cache_key("profile-42");
/// let flow = client.start_flow("profile", params).await;
/// assert!(matches!(flow.result_cache().get(), Err(CacheError::Unreachable(_))));
/// # });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheError {
    /// The flow was rejected, so no lookup was made.
    FlowRejected,
    /// The flow is unreachable. The [`source`](Error::source) has the reason.
    Unreachable(FlowError),
    /// The flow was started without a cache key, or the response to its check has no result for
    /// one.
    NotRequested,
    /// The flow was started without this global cache key.
    UnknownKey,
    /// The operation has no cache key, or an empty one.
    NoKey,
    /// The time to live is zero, which the Agent would read as seven days.
    NoTtl,
    /// The Agent's response has no result for the key.
    MissingInReply,
    /// The Agent or the engine refused the operation, with this text.
    Refused(String),
    /// The call failed, or the shared store of an engine's caches did not answer. The
    /// [`source`](Error::source) has the reason.
    Call(FlowError),
    /// The client has no caches.
    Unsupported,
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FlowRejected => f.write_str("the flow was rejected, so no cache lookup was made"),
            Self::Unreachable(_) => f.write_str("the flow is unreachable"),
            Self::NotRequested => f.write_str("the flow was started without a cache key"),
            Self::UnknownKey => f.write_str("the flow was started without this global cache key"),
            Self::NoKey => f.write_str("the cache key is missing or empty"),
            Self::NoTtl => f.write_str("the time to live is zero"),
            Self::MissingInReply => f.write_str("the agent's response has no result for the key"),
            Self::Refused(error) => write!(f, "the cache refused: {error}"),
            Self::Call(_) => f.write_str("the cache call failed"),
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
