//! The store as engines use it: it queues operations for its driver.

use std::fmt;
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use aperture_engine::engine::shared::{
    SharedCaches, SharedStore, SlotListener, StoreAbsence, StoreError, StoreKey, StoreOperation,
    StoreReply,
};
use bytes::Bytes;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Sender};

use crate::builder::{RedisBuilder, RedisConfigError, Settings};
use crate::driver::{self, CacheKind, CacheOperation, Kind, QUEUE, QueuedValue, Request};
use crate::shared::{Part, Shared};
use crate::stats::{RedisStats, count};

/// A store of limits in Redis, Valkey or a cluster of them; see the [crate's documentation](crate).
///
/// Clones are handles of the same store, which ends with the last of them.
#[derive(Clone)]
pub struct Redis {
    limits: Arc<Inner>,
    caches: Option<Arc<RedisCaches>>,
}

/// The caches that engines share.
struct RedisCaches {
    inner: Inner,
    /// The bytes of the values that wait for the server's answer.
    queued_bytes: Arc<AtomicUsize>,
}

/// A part of the store: its state, and the queue of its driver.
struct Inner {
    shared: Arc<Shared>,
    /// To the driver; closed until it is started, and again if its runtime was dropped.
    operations: RwLock<Sender<Request>>,
}

impl Redis {
    /// Creates a store with the default settings. It connects at its first use.
    ///
    /// The URL is `redis://[user:password@]host[:port][/database]`; the schemes `rediss` and
    /// `valkeys` use TLS, and `unix:///path` a Unix socket.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is wrong. Its text has no part of the URL.
    pub fn new(url: impl Into<String>) -> Result<Self, RedisConfigError> {
        Self::builder(url).build()
    }

    /// Sets up a store with the server at this URL; see [`new`](Self::new) for its form.
    pub fn builder(url: impl Into<String>) -> RedisBuilder {
        RedisBuilder::new(url.into())
    }

    pub(crate) fn start(settings: Settings) -> Self {
        let settings = Arc::new(settings);
        let caches = settings.shared_caches.then(|| {
            Arc::new(RedisCaches {
                inner: Inner::new(Arc::clone(&settings), Part::Caches),
                queued_bytes: Arc::default(),
            })
        });
        Self {
            limits: Arc::new(Inner::new(settings, Part::Limits)),
            caches,
        }
    }

    /// Returns what the store has done since it was built, and its state.
    #[must_use]
    pub fn stats(&self) -> RedisStats {
        let mut stats = self.limits.shared.stats();
        if let Some(caches) = &self.caches {
            let own = caches.inner.shared.stats();
            stats.cache_operations = own.operations;
            stats.cache_errors = own.errors;
            stats.cache_late = own.late;
            stats.caches_available = Some(own.available);
        }
        stats
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.limits.shared;
        f.debug_struct("Redis")
            .field("address", &shared.address())
            .field("prefix", &shared.settings.prefix)
            .field("available", &shared.breaker.is_available())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RedisCaches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCaches").finish_non_exhaustive()
    }
}

impl Inner {
    fn new(settings: Arc<Settings>, part: Part) -> Self {
        let (closed, _) = mpsc::channel(1);
        Self {
            shared: Arc::new(Shared::new(settings, part)),
            operations: RwLock::new(closed),
        }
    }

    /// Queues a request. Completes it if the queue is full or no driver can be started.
    fn send(&self, request: Request) {
        let sent = {
            let operations = self.operations.read();
            let operations = operations.unwrap_or_else(PoisonError::into_inner);
            operations.try_send(request)
        };
        let request = match sent {
            Ok(()) => return,
            Err(TrySendError::Full(request)) => request,
            Err(TrySendError::Closed(request)) => match self.running_driver() {
                Err(_) => request,
                Ok(driver) => match driver.try_send(request) {
                    Ok(()) => return,
                    Err(TrySendError::Full(request) | TrySendError::Closed(request)) => request,
                },
            },
        };
        request.fail(&self.shared);
    }

    /// Returns the queue of the driver. Starts one if none runs.
    fn running_driver(&self) -> io::Result<Sender<Request>> {
        let operations = self.operations.write();
        let mut operations = operations.unwrap_or_else(PoisonError::into_inner);
        if operations.is_closed() {
            let (sender, receiver) = mpsc::channel(QUEUE);
            let driver = driver::run(Arc::clone(&self.shared), receiver);
            match Handle::try_current() {
                // A runtime of one thread may not run for a while without being dropped.
                Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
                    drop(runtime.spawn(driver));
                }
                _ => run_on_a_thread(driver)?,
            }
            *operations = sender;
        }
        Ok(operations.clone())
    }
}

fn run_on_a_thread(driver: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::Builder::new().name("aperture-redis".to_owned());
    thread.spawn(move || runtime.block_on(driver)).map(drop)
}

impl SharedStore for Redis {
    fn submit(&self, operation: StoreOperation, reply: StoreReply) {
        let shared = &self.limits.shared;
        count(&shared.counters.operations, 1);
        self.limits
            .send(Request::operation(shared, operation, reply));
    }

    fn deadline(&self) -> Duration {
        self.limits.shared.settings.deadline
    }

    fn is_available(&self) -> bool {
        self.limits.shared.breaker.is_available()
    }

    fn nodes(&self) -> u32 {
        self.limits.shared.nodes()
    }

    fn absence(&self) -> StoreAbsence {
        self.limits.shared.settings.absence
    }

    fn decided_without(&self) {
        self.limits.shared.record_decided_without();
    }

    fn listen(&self, key: StoreKey, listener: Weak<dyn SlotListener>) {
        let shared = &self.limits.shared;
        if shared.freed.listen(key, listener) {
            shared.wake.notify_one();
        }
        // An engine that listens has submitted an operation, unless its runtime was dropped.
        let _ = self.limits.running_driver();
    }

    fn caches(&self) -> Option<Arc<dyn SharedCaches>> {
        let caches = Arc::clone(self.caches.as_ref()?);
        Some(caches)
    }
}

impl RedisCaches {
    fn send(&self, key: StoreKey, kind: CacheKind) {
        count(&self.inner.shared.counters.operations, 1);
        let operation = CacheOperation::new(key, kind);
        self.inner.send(Kind::Cache(operation).into());
    }
}

impl SharedCaches for RedisCaches {
    fn get(&self, key: StoreKey, reply: StoreReply<Option<Bytes>>) {
        self.send(key, CacheKind::Get(reply));
    }

    fn set(&self, key: StoreKey, value: Bytes, ttl: Duration, reply: StoreReply<()>) {
        let Some(value) = QueuedValue::new(&value, &self.queued_bytes) else {
            let counters = &self.inner.shared.counters;
            count(&counters.operations, 1);
            count(&counters.errors, 1);
            return reply.complete(Err(StoreError::Unavailable));
        };
        self.send(key, CacheKind::Set(value, ttl, reply));
    }

    fn delete(&self, key: StoreKey, reply: StoreReply<()>) {
        self.send(key, CacheKind::Delete(reply));
    }

    fn deadline(&self) -> Duration {
        self.inner.shared.settings.deadline
    }

    fn is_available(&self) -> bool {
        self.inner.shared.breaker.is_available()
    }
}
