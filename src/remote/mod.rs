//! The client of real Agents, over gRPC.
//!
//! Each check is one boxed future that runs on the caller's task. Background work runs on one
//! worker per runtime in which the client is used: it sends ends, cache writes and spans. Flows
//! only add work to the queue of a worker. Every queue is bounded in size and every call in time,
//! and lost work is counted.

mod agents;
mod availability;
mod breaker;
mod cache_write;
mod call;
mod check;
mod config;
mod connection_tracker;
mod counters;
mod end_queues;
#[cfg(feature = "telemetry")]
mod export;
mod failure;
mod flow;
mod flow_end;
mod hand_over;
mod http;
#[cfg(feature = "metrics")]
mod meter;
mod probe;
mod queue;
mod recent_failures;
mod runtime_state;
mod runtimes;
mod stall_tolerant;
mod timeout;
mod timestamps;
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
pub(crate) use self::config::ClientTls;
pub(crate) use self::config::{ConnectConfig, KeepAlive, RemoteConfig, RemoteTarget};
pub(crate) use self::flow::RemoteFlow;

use self::agents::Agents;
use self::availability::Availability;
use self::call::{CACHE_DELETE, CACHE_LOOKUP, CACHE_UPSERT};
use self::counters::RemoteCounters;
use self::failure::CallFailure;
use self::runtime_state::RuntimeState;
use crate::flow::{
    AgentStatus, ClientStats, ConnectionState, FlowError, FlowParams, HttpAttributes,
};
use crate::pb::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheLookupRequest, CacheLookupResponse,
    CacheUpsertRequest, CacheUpsertResponse,
};

/// A client of real Agents. Clones share all state.
#[derive(Clone)]
pub(crate) struct Remote {
    owner: Arc<ShutdownOnDrop>,
}

/// The owner of the shared state. It is dropped with the last clone of [`Remote`], and then shuts
/// the client down.
struct ShutdownOnDrop {
    shared: Arc<RemoteShared>,
}

/// The state that clones of the client and background tasks share.
struct RemoteShared {
    config: RemoteConfig,
    agents: Agents,
    availability: Availability,
    counters: RemoteCounters,
    /// One entry for each runtime in which the client is used; nearly always a single one.
    runtimes: Mutex<Vec<Arc<RuntimeState>>>,
    /// The number of checks in flight and of flows that have not ended.
    open_flows: AtomicUsize,
    /// The losses counted before the first call of `shutdown`.
    lost_before_shutdown: OnceLock<u64>,
}

impl Remote {
    /// Creates a client. It connects and spawns tasks only with the first call.
    pub(crate) fn new(config: RemoteConfig) -> Self {
        Self {
            owner: Arc::new(ShutdownOnDrop {
                shared: Arc::new(RemoteShared {
                    agents: Agents::new(&config),
                    config,
                    availability: Availability::default(),
                    counters: RemoteCounters::default(),
                    runtimes: Mutex::default(),
                    open_flows: AtomicUsize::new(0),
                    lost_before_shutdown: OnceLock::new(),
                }),
            }),
        }
    }

    fn shared(&self) -> &Arc<RemoteShared> {
        &self.owner.shared
    }

    /// Returns a check of a flow. The request is sent when the future is first polled.
    ///
    /// # Errors
    ///
    /// If the control point is empty, the client has shut down, or every Agent is given up.
    pub(crate) fn check(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Result<PendingCheck, FlowError> {
        PendingCheck::new(self, control_point, params)
    }

    /// Returns a check of an HTTP request.
    ///
    /// # Errors
    ///
    /// The same as [`check`](Self::check).
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
        if self.shared().availability.is_shut_down() {
            return ConnectionState::Shutdown;
        }
        self.shared().agents.state()
    }

    pub(crate) fn agents(&self) -> Vec<AgentStatus> {
        let agents = self.shared().agents.iter();
        let shut_down = self.shared().availability.is_shut_down();
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

    /// Probes the Agents until one answers or `timeout` passes. Returns `true` if one answered.
    /// Outside a runtime, the probes run in a runtime in which the client is already used.
    pub(crate) async fn wait_ready(&self, timeout: Duration) -> bool {
        let shared = self.shared();
        let runtime = match Handle::try_current() {
            Ok(_) => shared.current_runtime().ok(),
            Err(_) => shared.runtimes_newest_first().into_iter().next(),
        };
        let Some(runtime) = runtime.filter(|_| !shared.availability.is_shut_down()) else {
            return false;
        };
        // The timeout drops the set, which ends the task.
        let mut probes = JoinSet::new();
        let handle = runtime.handle().clone();
        probes.spawn_on(async move { runtime.wait_until_answered().await }, &handle);
        let answered = timeout::timeout_anywhere(timeout, probes.join_next()).await;
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
        let runtime = self.shared().current_runtime()?;
        runtime
            .call(path, request, self.shared().config.end_timeout)
            .await
            .map_err(CallFailure::into_error)
    }

    /// Queues a cache write for the worker. Never blocks.
    pub(crate) fn write_later(&self, write: impl Into<CacheWrite>) {
        cache_write::submit(self.shared(), write.into());
    }

    /// Waits until no flow is open and all queued work is delivered. Returns `true` if that
    /// happened within `timeout` and no work was lost since the first call.
    pub(crate) async fn shutdown(&self, timeout: Duration) -> bool {
        let shared = self.shared();
        let lost_before = *shared
            .lost_before_shutdown
            .get_or_init(|| shared.counters.lost());
        if Handle::try_current().is_ok()
            && !shared.runtimes_newest_first().is_empty()
            && let Ok(runtime) = shared.current_runtime()
        {
            // Other runtimes may stall from now on; the caller's runtime runs until the shutdown
            // ends.
            runtime.take_over_stalled(Duration::ZERO);
        }
        shared.shut_down();
        let drained = async {
            // One at a time: work may move from a runtime that ends to another runtime.
            while let Some(runtime) = shared.runtimes_newest_first().into_iter().next() {
                runtime.wait_closed().await;
            }
        };
        let in_time = timeout::timeout_anywhere(timeout, drained).await.is_some();
        for runtime in shared.runtimes_newest_first() {
            runtime.abort();
        }
        in_time && shared.open_flows() == 0 && shared.counters.lost() == lost_before
    }

    /// Adds the counts of this module to `stats`. The client itself counts decisions.
    pub(crate) fn add_stats(&self, stats: &mut ClientStats) {
        self.shared().counters.add_to(stats);
    }
}

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        // Each open flow holds a clone of the client, so no flow is open and no more work is
        // queued.
        self.shared.shut_down();
    }
}

impl RemoteShared {
    /// Stops new flows. The workers end once their work is done.
    fn shut_down(&self) {
        self.availability.shut_down();
        // Work that waits for an Agent to return is attempted once more without waiting.
        self.agents.notify();
        for runtime in self.runtimes_newest_first() {
            runtime.drain();
        }
    }

    /// Returns the number of checks in flight and of flows that have not ended and hold a slot or a
    /// span.
    fn open_flows(&self) -> usize {
        self.open_flows.load(SeqCst)
    }
}

/// Counts a flow as open until it is dropped.
struct OpenFlow(Arc<RemoteShared>);

impl OpenFlow {
    /// Returns `None` if the client has shut down.
    fn new(shared: &Arc<RemoteShared>) -> Option<Self> {
        // The flow is counted before the flag is read: either this sees the shutdown, or the
        // shutdown sees the flow.
        shared.open_flows.fetch_add(1, SeqCst);
        let flow = Self(Arc::clone(shared));
        (!shared.availability.is_shut_down()).then_some(flow)
    }
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        if self.0.open_flows.fetch_sub(1, SeqCst) == 1 && self.0.availability.is_shut_down() {
            // No more work arrives: workers with an empty queue end.
            for runtime in self.0.runtimes_newest_first() {
                runtime.drain();
            }
        }
    }
}
