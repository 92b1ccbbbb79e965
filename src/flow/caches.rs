use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use super::{FlowError, Invalidations, PendingInvalidation};

/// The caches behind a decider, where the layer keeps responses and handlers keep values.
///
/// An [`ApertureClient`](crate::ApertureClient) has them; a decider of your own may.
///
/// ```
/// use std::collections::HashMap;
/// use std::future::ready;
/// use std::sync::Mutex;
/// use std::time::Duration;
///
/// use bytes::Bytes;
/// use tower_aperture::{CacheCall, CachePlace, Caches, Invalidations, PendingInvalidation};
///
/// /// Keeps everything for ever.
/// #[derive(Default)]
/// struct Hoard {
///     values: Mutex<HashMap<String, Bytes>>,
///     invalidations: Invalidations,
/// }
///
/// impl Caches for Hoard {
///     fn set<'a>(&'a self, place: CachePlace<'a>, value: Bytes, ttl: Duration) -> CacheCall<'a> {
///         self.set_later(place, value, ttl);
///         Box::pin(ready(Ok(())))
///     }
///
///     fn delete<'a>(&'a self, place: CachePlace<'a>) -> CacheCall<'a> {
///         self.delete_later(place);
///         Box::pin(ready(Ok(())))
///     }
///
///     fn set_later(&self, place: CachePlace<'_>, value: Bytes, _: Duration) {
///         self.values.lock().unwrap().insert(format!("{place:?}"), value);
///     }
///
///     fn delete_later(&self, place: CachePlace<'_>) {
///         self.values.lock().unwrap().remove(&format!("{place:?}"));
///     }
///
///     /// Deletes at once; a cache behind a network calls `succeeded` when it has the answer.
///     fn invalidate_later(&self, place: CachePlace<'_>, pending: PendingInvalidation) {
///         self.delete_later(place);
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
    fn set<'a>(&'a self, place: CachePlace<'a>, value: Bytes, ttl: Duration) -> CacheCall<'a>;

    /// Deletes a value; a missing one is no error.
    fn delete<'a>(&'a self, place: CachePlace<'a>) -> CacheCall<'a>;

    /// Like [`set`](Self::set), in the background: it must not block, may run while something is
    /// dropped, and has to count what it loses itself.
    fn set_later(&self, place: CachePlace<'_>, value: Bytes, ttl: Duration);

    /// Like [`delete`](Self::delete), in the background.
    fn delete_later(&self, place: CachePlace<'_>);

    /// Deletes a response that a successful request with an unsafe method has invalidated, in the
    /// background. Until `pending` was told that the deletion has succeeded, the layer does not
    /// use the cache for the key.
    ///
    /// By default it calls [`delete_later`](Self::delete_later) and says that this has succeeded.
    fn invalidate_later(&self, place: CachePlace<'_>, pending: PendingInvalidation) {
        self.delete_later(place);
        pending.succeeded();
    }

    /// Returns the invalidations that all layers over these caches share. By default each layer
    /// has its own, and does not see those of others.
    fn invalidations(&self) -> Option<&Invalidations> {
        None
    }

    /// Counts what the layer did with a stored response. By default it does nothing.
    fn note(&self, event: CacheEvent) {
        let _ = event;
    }
}

/// The result of a change to a cache, to be awaited.
///
/// See [`Caches`] for an example.
pub type CacheCall<'a> = Pin<Box<dyn Future<Output = Result<(), CacheError>> + Send + 'a>>;

/// A key of one of the caches.
///
/// See [`Caches`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CachePlace<'a> {
    /// Of the result cache of a control point.
    Result {
        /// The control point.
        control_point: &'a str,
        /// The key there.
        key: &'a str,
    },
    /// Of the global cache, which all control points share.
    Global {
        /// The key.
        key: &'a str,
    },
}

impl<'a> CachePlace<'a> {
    /// The key, wherever it is.
    #[must_use]
    pub const fn key(self) -> &'a str {
        match self {
            Self::Result { key, .. } | Self::Global { key } => key,
        }
    }
}

/// What happened to a response of the result cache.
///
/// ```
/// use tower_aperture::CacheEvent;
///
/// assert_ne!(CacheEvent::Answered, CacheEvent::Unreadable);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheEvent {
    /// A request was answered with it.
    Answered,
    /// It was none: what lay there was not written by this version of the layer.
    Unreadable,
}

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
    /// Nobody answered for the flow. The [`source`](Error::source) says why.
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
    /// The call failed. The [`source`](Error::source) says why.
    Call(FlowError),
    /// The client has no caches behind it.
    Unsupported,
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FlowRejected => f.write_str("the flow was rejected, nothing was looked up"),
            Self::Unreachable(_) => f.write_str("nobody answered for the flow"),
            Self::NotRequested => f.write_str("the flow was started without a cache key"),
            Self::UnknownKey => f.write_str("the flow was started without this global cache key"),
            Self::NoKey => f.write_str("there is no cache key"),
            Self::NoTtl => f.write_str("the time to live is zero"),
            Self::MissingInReply => f.write_str("the agent's answer has no part for the key"),
            Self::Server(error) => write!(f, "the cache refused: {error}"),
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
