//! Real Agents, over gRPC.
//!
//! A check is one boxed future on the caller's own task. Everything else happens in the
//! background: one worker for each runtime that the client is used in sends ends, changes to caches
//! and spans. Each is bounded in number and time, and losses are counted. Flows only leave work in a
//! queue.

mod agents;
mod breaker;
mod cache_write;
mod call;
mod check;
mod config;
mod counters;
mod deadline;
mod ends;
#[cfg(feature = "telemetry")]
mod export;
mod failure;
mod flow;
mod flow_end;
mod hand_over;
mod health;
mod http;
mod link;
mod live;
#[cfg(feature = "metrics")]
mod meter;
mod patience;
mod probe;
mod queue;
mod recent_failures;
mod runtimes;
mod stamps;
mod transport;
mod worker;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
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
use self::live::Live;
use crate::flow::{
    AgentStatus, ClientStats, ConnectionState, FlowError, FlowParams, HttpAttributes,
};
use crate::pb::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheLookupRequest, CacheLookupResponse,
    CacheUpsertRequest, CacheUpsertResponse,
};

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
    /// One for each runtime that the client is in use in; nearly always one in all.
    lives: Mutex<Vec<Arc<Live>>>,
    /// Checks and flows under way.
    open: AtomicUsize,
    /// What had been lost when the client was first told to shut down.
    lost: OnceLock<u64>,
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
                    open: AtomicUsize::new(0),
                    lost: OnceLock::new(),
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

    /// Asks the Agents, again and again if need be, until one says anything at all. Outside a
    /// runtime they are asked in one that the client is in use in already.
    pub(crate) async fn wait_ready(&self, timeout: Duration) -> bool {
        let shared = self.shared();
        let live = match Handle::try_current() {
            Ok(_) => shared.live().ok(),
            Err(_) => shared.newest_first().into_iter().next(),
        };
        let Some(live) = live.filter(|_| !shared.health.is_shut_down()) else {
            return false;
        };
        // Dropped at the timeout, which ends the task.
        let mut asking = JoinSet::new();
        let runtime = live.handle().clone();
        asking.spawn_on(async move { live.until_answered().await }, &runtime);
        let answered = deadline::within(timeout, asking.join_next()).await;
        answered
            .flatten()
            .is_some_and(|answered| answered.unwrap_or(false))
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

    /// Waits until no flow is under way and everything is delivered. Returns `true` when that
    /// was so in time, and nothing has been lost since the first call.
    pub(crate) async fn shutdown(&self, timeout: Duration) -> bool {
        let shared = self.shared();
        let lost = *shared.lost.get_or_init(|| shared.counters.lost());
        if Handle::try_current().is_ok()
            && !shared.newest_first().is_empty()
            && let Ok(live) = shared.live()
        {
            // Other runtimes may stand still from now on; the caller's runs until the shutdown ends.
            live.rescue(Duration::ZERO);
        }
        shared.shut_down();
        let drained = async {
            // One by one: work may move from a runtime that ends to another one.
            while let Some(live) = shared.newest_first().into_iter().next() {
                live.closed().await;
            }
        };
        let in_time = deadline::within(timeout, drained).await.is_some();
        for live in shared.newest_first() {
            live.give_up();
        }
        in_time && shared.open_flows() == 0 && shared.counters.lost() == lost
    }

    /// Adds what is counted here; decisions are the client's to count.
    pub(crate) fn add_stats(&self, stats: &mut ClientStats) {
        self.shared().counters.add_to(stats);
    }
}

// === impl Handles ===

impl Drop for Handles {
    fn drop(&mut self) {
        // Each flow holds a handle, so no flow is left, and nothing more will be queued.
        self.shared.shut_down();
    }
}

// === impl Shared ===

impl Shared {
    /// No flow starts from now on, and the workers end when nothing is left.
    fn shut_down(&self) {
        self.health.shut_down();
        // Work that waits for an Agent that is away is tried as it is.
        self.agents.notify();
        for live in self.newest_first() {
            live.drain();
        }
    }

    /// Checks under way, and flows that have not ended and have a slot or a span.
    fn open_flows(&self) -> usize {
        self.open.load(SeqCst)
    }
}

/// Counts a flow as under way.
struct OpenFlow(Arc<Shared>);

impl OpenFlow {
    /// Returns `None` when the client has shut down.
    fn new(shared: &Arc<Shared>) -> Option<Self> {
        // Counted first: a shutdown that this does not see will see the flow.
        shared.open.fetch_add(1, SeqCst);
        let flow = Self(Arc::clone(shared));
        (!shared.health.is_shut_down()).then_some(flow)
    }
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, SeqCst) == 1 && self.0.health.is_shut_down() {
            // Nothing more comes: workers without work end.
            for live in self.0.newest_first() {
                live.drain();
            }
        }
    }
}
