//! The store as engines use it: it queues operations for its driver.

use std::fmt;
use std::io;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use aperture_engine::engine::shared::{
    SharedStore, SlotListener, StoreAbsence, StoreKey, StoreOperation, StoreReply,
};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Sender};

use crate::builder::{RedisBuilder, RedisConfigError, Settings};
use crate::driver::{self, QUEUE, Request};
use crate::shared::Shared;
use crate::stats::{RedisStats, count};

/// A store of limits in Redis, Valkey or a cluster of them; see the [crate's documentation](crate).
///
/// Clones are handles of the same store, which ends with the last of them.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

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
        let (closed, _) = mpsc::channel(1);
        Self(Arc::new(Inner {
            shared: Arc::new(Shared::new(settings)),
            operations: RwLock::new(closed),
        }))
    }

    /// Returns what the store has done since it was built, and its state.
    #[must_use]
    pub fn stats(&self) -> RedisStats {
        self.0.shared.stats()
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.0.shared;
        f.debug_struct("Redis")
            .field("address", &shared.address())
            .field("prefix", &shared.settings.prefix)
            .field("available", &shared.breaker.is_available())
            .finish_non_exhaustive()
    }
}

impl Inner {
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
        let shared = &self.0.shared;
        count(&shared.counters.operations, 1);
        self.0.send(Request::operation(shared, operation, reply));
    }

    fn deadline(&self) -> Duration {
        self.0.shared.settings.deadline
    }

    fn is_available(&self) -> bool {
        self.0.shared.breaker.is_available()
    }

    fn nodes(&self) -> u32 {
        self.0.shared.nodes()
    }

    fn absence(&self) -> StoreAbsence {
        self.0.shared.settings.absence
    }

    fn decided_without(&self) {
        self.0.shared.record_decided_without();
    }

    fn listen(&self, key: StoreKey, listener: Weak<dyn SlotListener>) {
        let shared = &self.0.shared;
        if shared.freed.listen(key, listener) {
            shared.wake.notify_one();
        }
        // An engine that listens has submitted an operation, unless its runtime was dropped.
        let _ = self.0.running_driver();
    }
}
