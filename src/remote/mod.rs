//! A real Agent, over gRPC.
//!
//! A check is one boxed future on the caller's own task. Everything else happens in the
//! background: one worker for each runtime the client is used in sends ends and spans, each bounded
//! in number and time, and what is lost is counted. Flows only leave work in a queue.

mod call;
mod channel;
mod check;
mod config;
mod counters;
#[cfg(feature = "telemetry")]
mod export;
mod flow;
mod flow_end;
mod health;
mod http;
mod live;
mod stamps;
mod worker;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

pub(crate) use self::check::PendingCheck;
#[cfg(feature = "tls")]
pub(crate) use self::config::Tls;
pub(crate) use self::config::{Connect, KeepAlive, RemoteConfig, Target};
pub(crate) use self::flow::RemoteFlow;

use self::call::{CACHE_DELETE, CACHE_LOOKUP, CACHE_UPSERT, HEALTH};
use self::counters::Counters;
use self::health::Health;
use self::live::Live;
use crate::flow::{
    ClientStats, ConnectionState, FlowError, FlowErrorKind, FlowParams, HttpAttributes,
};
use crate::pb::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheLookupRequest, CacheLookupResponse,
    CacheUpsertRequest, CacheUpsertResponse,
};

/// Between two attempts of [`Remote::wait_ready`].
const PROBE_PAUSE: Duration = Duration::from_millis(50);

/// How long one attempt of [`Remote::wait_ready`] may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A client of a real Agent; clones are the same one.
#[derive(Clone)]
pub(crate) struct Remote {
    handles: Arc<Handles>,
}

/// What the handles share; its drop is the drop of the last of them.
struct Handles {
    shared: Arc<Shared>,
}

/// What handles and background tasks share.
struct Shared {
    config: RemoteConfig,
    health: Arc<Health>,
    counters: Counters,
    /// One for each runtime the client is in use in, nearly always one in all.
    lives: Mutex<Vec<Arc<Live>>>,
}

// === impl Remote ===

impl Remote {
    /// Does nothing yet: connections and tasks start with the first call.
    pub(crate) fn new(config: RemoteConfig) -> Self {
        Self {
            handles: Arc::new(Handles {
                shared: Arc::new(Shared {
                    config,
                    health: Arc::default(),
                    counters: Counters::default(),
                    lives: Mutex::default(),
                }),
            }),
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handles.shared
    }

    /// Asks the Agent, once the future is polled.
    pub(crate) fn check(&self, control_point: &str, params: &FlowParams<'_>) -> PendingCheck {
        PendingCheck::new(self, control_point, params)
    }

    /// Asks the Agent about an HTTP request, once the future is polled.
    pub(crate) fn check_http(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
        baggage: Option<String>,
    ) -> PendingCheck {
        PendingCheck::http(self, control_point, params, request, baggage)
    }

    pub(crate) fn state(&self) -> ConnectionState {
        self.shared().health.state()
    }

    /// Connects, again and again if need be, until the Agent says anything at all.
    pub(crate) async fn wait_ready(&self, timeout: Duration) -> bool {
        if Handle::try_current().is_err() {
            return self.state() == ConnectionState::Ready;
        }
        let probing = async {
            loop {
                match self.state() {
                    ConnectionState::Ready => return true,
                    ConnectionState::Shutdown => return false,
                    _ => self.probe().await,
                }
                if self.state() != ConnectionState::Ready {
                    tokio::time::sleep(PROBE_PAUSE).await;
                }
            }
        };
        tokio::time::timeout(timeout, probing)
            .await
            .unwrap_or(false)
    }

    /// Asks the health service, which every Agent has; one that has not says so, and is there.
    async fn probe(&self) {
        if let Ok(live) = self.shared().live() {
            // The outcome is in `Health`.
            let _ = live.call::<(), ()>(HEALTH, (), Some(PROBE_TIMEOUT)).await;
        }
    }

    pub(crate) async fn cache_lookup(
        &self,
        request: CacheLookupRequest,
    ) -> Result<CacheLookupResponse, FlowError> {
        self.cache_call(CACHE_LOOKUP, request).await
    }

    pub(crate) async fn cache_upsert(
        &self,
        request: CacheUpsertRequest,
    ) -> Result<CacheUpsertResponse, FlowError> {
        self.cache_call(CACHE_UPSERT, request).await
    }

    pub(crate) async fn cache_delete(
        &self,
        request: CacheDeleteRequest,
    ) -> Result<CacheDeleteResponse, FlowError> {
        self.cache_call(CACHE_DELETE, request).await
    }

    async fn cache_call<Req, Res>(&self, path: &'static str, request: Req) -> Result<Res, FlowError>
    where
        Req: prost::Message + 'static,
        Res: prost::Message + Default + 'static,
    {
        let live = self.shared().live()?;
        live.call(path, request, self.shared().config.end_timeout)
            .await
            .map_err(call::Failure::into_error)
    }

    /// Delivers what waits; `true` when nothing was lost on the way.
    pub(crate) async fn shutdown(&self, timeout: Duration) -> bool {
        let shared = self.shared();
        let lost = shared.counters.lost();
        shared.health.shut_down();
        let lives = shared.lives().clone();
        for live in &lives {
            live.drain();
        }
        let drained = async {
            for live in &lives {
                live.closed().await;
            }
        };
        let in_time = if Handle::try_current().is_ok() {
            tokio::time::timeout(timeout, drained).await.is_ok()
        } else {
            // No timer here; the worker's own deadlines bound the wait.
            drained.await;
            true
        };
        if !in_time {
            for live in &lives {
                live.give_up();
            }
        }
        in_time && shared.counters.lost() == lost
    }

    /// Adds what is counted here; decisions are the client's to count.
    pub(crate) fn add_stats(&self, stats: &mut ClientStats) {
        self.shared().counters.add_to(stats);
    }
}

// === impl Handles ===

impl Drop for Handles {
    fn drop(&mut self) {
        // No flow is left either, each holds a handle: what waits is all that will ever come.
        self.shared.health.shut_down();
        let lives = self.shared.lives().clone();
        for live in lives {
            live.drain();
        }
    }
}

// === impl Shared ===

impl Shared {
    fn lives(&self) -> MutexGuard<'_, Vec<Arc<Live>>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client's side in the current runtime, made when there is none.
    ///
    /// Connections and timers belong to a runtime and end with it, so that a client that outlives
    /// one, as in tests that share a static, starts afresh in the next.
    fn live(self: &Arc<Self>) -> Result<Arc<Live>, FlowError> {
        let Ok(runtime) = Handle::try_current() else {
            return Err(FlowError::new(
                FlowErrorKind::Other,
                "an agent can be called from within a tokio runtime only",
            ));
        };
        let id = runtime.id();
        let mut lives = self.lives();
        if self.health.is_shut_down() {
            return Err(FlowError::new(FlowErrorKind::ShutDown, ""));
        }
        if let Some(live) = lives.iter().find(|live| live.runtime() == id) {
            return Ok(Arc::clone(live));
        }
        let channels = match &self.config.target {
            Target::Connect(connect) => connect.channels(&self.health).map_err(|error| {
                FlowError::new(FlowErrorKind::Unavailable, call::innermost(&*error))
            })?,
            Target::Ready(channel) => Box::from([channel.clone()]),
        };
        let live = Arc::new(Live::new(Arc::clone(self), runtime, channels));
        lives.push(Arc::clone(&live));
        // A runtime that is on its way out drops the task at once, and with it takes this lock.
        drop(lives);
        worker::start(&live);
        Ok(live)
    }

    /// Another runtime's side, for ends whose own runtime is gone.
    fn any_live(self: &Arc<Self>) -> Option<Arc<Live>> {
        let first = self.lives().first().cloned();
        first.or_else(|| self.live().ok())
    }

    fn forget(&self, live: &Live) {
        self.lives().retain(|known| !std::ptr::eq(&**known, live));
    }
}
