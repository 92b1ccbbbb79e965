//! The operations of a client of real Agents: checks, cache calls, readiness and shutdown.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::cache_write::CacheWrite;
use super::cache_write_call;
use super::call::{CACHE_DELETE, CACHE_LOOKUP, CACHE_UPSERT};
use super::check::PendingCheck;
use super::failure::CallFailure;
use super::state::Remote;
use super::timeout::timeout_anywhere;
use crate::flow::{
    AgentStatus, ClientStats, ConnectionState, FlowError, FlowParams, HttpAttributes,
};
use crate::messages::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheLookupRequest, CacheLookupResponse,
    CacheUpsertRequest, CacheUpsertResponse,
};

impl Remote {
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
        let answered = timeout_anywhere(timeout, probes.join_next()).await;
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
        Req: prost::Message,
        Res: prost::Message + Default,
    {
        let runtime = self.shared().current_runtime()?;
        runtime
            .call(path, &request, self.shared().config.end_timeout)
            .await
            .map_err(CallFailure::into_error)
    }

    /// Queues a cache write for the worker. Never blocks.
    pub(crate) fn write_later(&self, write: impl Into<CacheWrite>) {
        cache_write_call::submit(self.shared(), write.into());
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
        let in_time = timeout_anywhere(timeout, drained).await.is_some();
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
