//! Real Agents, over gRPC.
//!
//! A check is one boxed future on the caller's own task. Everything else happens in the
//! background: one worker for each runtime the client is used in sends ends and spans, each bounded
//! in number and time, and what is lost is counted. Flows only leave work in a queue.

mod agents;
mod breaker;
mod cache_write;
mod call;
mod check;
mod config;
mod counters;
#[cfg(feature = "telemetry")]
mod export;
mod failure;
mod flow;
mod flow_end;
mod health;
mod http;
mod link;
mod live;
#[cfg(feature = "metrics")]
mod meter;
mod patience;
mod probe;
mod recent_failures;
mod stamps;
mod transport;
mod worker;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

pub(crate) use self::breaker::BreakerConfig;
pub(crate) use self::cache_write::CacheWrite;
pub(crate) use self::check::PendingCheck;
#[cfg(feature = "tls")]
pub(crate) use self::config::Tls;
pub(crate) use self::config::{Connect, KeepAlive, RemoteConfig, Target};
pub(crate) use self::flow::RemoteFlow;

use self::agents::Agents;
use self::call::{CACHE_DELETE, CACHE_LOOKUP, CACHE_UPSERT};
use self::counters::Counters;
use self::failure::Failure;
use self::health::Health;
use self::live::{Live, Slot};
use self::probe::PROBE_TIMEOUT;
use self::transport::Transport;
use crate::flow::{
    AgentStatus, ClientStats, ConnectionState, FlowError, FlowErrorKind, FlowParams, HttpAttributes,
};
use crate::pb::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheLookupRequest, CacheLookupResponse,
    CacheUpsertRequest, CacheUpsertResponse,
};

/// Between two attempts of [`Remote::wait_ready`].
const PROBE_PAUSE: Duration = Duration::from_millis(50);

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
    agents: Agents,
    health: Health,
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
                    agents: Agents::new(&config),
                    config,
                    health: Health::default(),
                    counters: Counters::default(),
                    lives: Mutex::default(),
                }),
            }),
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handles.shared
    }

    /// Asks an Agent, once the future is polled; an error when none is worth asking.
    pub(crate) fn check(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Result<PendingCheck, FlowError> {
        PendingCheck::new(self, control_point, params)
    }

    /// Asks an Agent about an HTTP request, likewise.
    pub(crate) fn check_http(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
        baggage: Option<String>,
    ) -> Result<PendingCheck, FlowError> {
        PendingCheck::http(self, control_point, params, request, baggage)
    }

    pub(crate) fn state(&self) -> ConnectionState {
        if self.shared().health.is_shut_down() {
            return ConnectionState::Shutdown;
        }
        self.shared().agents.state()
    }

    pub(crate) fn agents(&self) -> Vec<AgentStatus> {
        let agents = self.shared().agents.iter();
        let shut_down = self.shared().health.is_shut_down();
        agents
            .map(|agent| {
                let mut status = agent.status();
                if shut_down {
                    status.state = ConnectionState::Shutdown;
                }
                status
            })
            .collect()
    }

    /// Connects, again and again if need be, until an Agent says anything at all.
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

    /// Until one Agent has answered, or all have had their chance. The outcome is in the state.
    async fn probe(&self) {
        let Ok(live) = self.shared().live() else {
            return;
        };
        if self.shared().agents.len() == 1 {
            live.probe(0, PROBE_TIMEOUT).await;
            return;
        }
        let mut probes = JoinSet::new();
        for at in 0..self.shared().agents.len() {
            let live = Arc::clone(&live);
            probes.spawn(async move { live.probe(at, PROBE_TIMEOUT).await });
        }
        while let Some(there) = probes.join_next().await {
            if there.unwrap_or(false) {
                return;
            }
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
            .map_err(Failure::into_error)
    }

    /// Leaves a change to the background; never blocks.
    pub(crate) fn write_later(&self, write: impl Into<CacheWrite>) {
        cache_write::submit(self.shared(), write.into());
    }

    /// Delivers what waits; `true` when nothing was lost on the way.
    pub(crate) async fn shutdown(&self, timeout: Duration) -> bool {
        let shared = self.shared();
        let lost = shared.counters.lost();
        shared.shut_down();
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
        self.shared.shut_down();
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

    /// No flow starts any more, and what waits for an Agent that is away is tried as it is.
    fn shut_down(&self) {
        self.health.shut_down();
        self.agents.notify();
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
        #[cfg(feature = "metrics")]
        meter::register(&self.counters, &self.agents);
        let slots = match &self.config.target {
            Target::Connect(connect) => {
                let agents = self.agents.iter();
                let slots = agents.filter_map(|agent| {
                    let generation = agent.generation();
                    let pool = agent.pool(connect, &runtime)?;
                    Some(Slot::new(Transport::Own(pool), generation))
                });
                slots.collect()
            }
            Target::Ready(channel) => Box::from([Slot::new(Transport::Ready(channel.clone()), 0)]),
        };
        let live = Arc::new(Live::new(Arc::clone(self), runtime, slots));
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
