//! The backend that checks flows with an Agent.

mod cache;
mod unlimited;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use self::unlimited::UnlimitedFlowWarnings;
use super::{Backend, BackendTicket, CacheBackend, HttpBackend};
use crate::client::cache::{CacheWrites, ReadLookup};
use crate::flow::{
    AgentStatus, CacheChange, CacheError, CacheKey, CacheLookup, Check, ClientStats,
    ConnectionState, ControlPoint, EndResponse, FlowError, FlowOutcome, FlowParams, HttpAttributes,
    HttpExtras, Invalidations, LabelSource, PendingInvalidation, Quota, Ticket, Verdict,
};
use crate::remote::{PendingCheck, Remote, RemoteFlow};

/// The client of an Agent, with the warnings that it has logged about responses.
pub(in crate::client) struct RemoteBackend {
    remote: Remote,
    unlimited: UnlimitedFlowWarnings,
}

impl RemoteBackend {
    pub(in crate::client) fn new(remote: Remote) -> Self {
        Self {
            remote,
            unlimited: UnlimitedFlowWarnings::default(),
        }
    }
}

/// Converts a started check. An error is the verdict.
fn to_check<T, P>(
    started: Result<PendingCheck, FlowError>,
    pending: impl FnOnce(PendingCheck) -> P,
) -> Check<T, P> {
    match started {
        Ok(check) => Check::Pending(pending(check)),
        Err(error) => Check::Ready(Verdict::Unreachable(error)),
    }
}

impl Backend for RemoteBackend {
    type Ticket = RemoteFlow;
    type Pending = PendingCheck;

    const QUEUES_IN_PROCESS: bool = false;

    fn decide_as<T, P>(
        &self,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        _: &dyn LabelSource,
        _: &mut bool,
        _: impl Fn(Self::Ticket) -> T,
        pending: impl FnOnce(Self::Pending) -> P,
    ) -> Check<T, P> {
        to_check(self.remote.check(control_point.name(), params), pending)
    }

    fn poll(pending: &mut Self::Pending, cx: &mut Context<'_>) -> Poll<Verdict<Self::Ticket>> {
        Pin::new(pending).poll(cx).map(|result| match result {
            Ok(flow) => match flow.denial() {
                None => Verdict::Accepted(flow),
                Some(denial) => Verdict::Rejected(denial, flow),
            },
            Err(error) => Verdict::Unreachable(error),
        })
    }

    /// Warns once for each control point and limiter.
    #[inline]
    fn is_undecided(&self, flow: &Self::Ticket) -> bool {
        self.unlimited
            .inspect(flow.control_point(), flow.decision())
    }

    /// Agents behind a channel that the application supplied have no address, so only clones of the
    /// client share their invalidations.
    fn invalidations(&self) -> Invalidations {
        let agents = self.remote.agents().into_iter();
        let addresses: Option<Vec<String>> = agents.map(|agent| agent.address).collect();
        addresses.map_or_else(Invalidations::default, Invalidations::for_agents)
    }

    fn state(&self) -> ConnectionState {
        self.remote.state()
    }

    fn agents(&self) -> Vec<AgentStatus> {
        self.remote.agents()
    }

    async fn wait_ready(&self, timeout: Duration) -> bool {
        self.remote.wait_ready(timeout).await
    }

    fn add_stats(&self, stats: &mut ClientStats) {
        self.remote.add_stats(stats);
    }

    async fn shutdown(&self, timeout: Duration) -> bool {
        self.remote.shutdown(timeout).await
    }
}

impl HttpBackend for RemoteBackend {
    fn decide_http(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        _: &mut bool,
        request: &HttpAttributes<'_>,
        baggage: Option<String>,
    ) -> Check<Self::Ticket, Self::Pending> {
        let started = self
            .remote
            .check_http(control_point, params, request, baggage);
        to_check(started, |check| check)
    }
}

impl CacheBackend for RemoteBackend {
    async fn lookup(&self, key: CacheKey<'_>) -> Result<CacheLookup, CacheError> {
        cache::lookup(&self.remote, key).await
    }

    async fn store(
        &self,
        key: CacheKey<'_>,
        value: Bytes,
        ttl: Duration,
    ) -> Result<CacheChange, CacheError> {
        cache::upsert(&self.remote, key, value, ttl).await
    }

    async fn delete(&self, key: CacheKey<'_>) -> Result<CacheChange, CacheError> {
        cache::delete(&self.remote, key).await
    }

    fn store_later(
        &self,
        key: CacheKey<'_>,
        value: Bytes,
        ttl: Duration,
        _: &Arc<CacheWrites>,
    ) -> Option<CacheChange> {
        let request = cache::upsert_request(key, value, ttl);
        self.remote.write_later(request);
        None
    }

    fn delete_later(&self, key: CacheKey<'_>, _: &Arc<CacheWrites>) -> Option<CacheChange> {
        self.remote.write_later(cache::delete_request(key));
        None
    }

    fn invalidate_later(
        &self,
        key: CacheKey<'_>,
        pending: PendingInvalidation,
        _: &Arc<CacheWrites>,
    ) -> Option<CacheChange> {
        self.remote
            .write_later((cache::delete_request(key), pending));
        None
    }
}

impl Ticket for RemoteFlow {
    fn end(self, outcome: FlowOutcome) {
        RemoteFlow::end(self, outcome);
    }

    /// Every message has a lookup. Only the results in it show that the flow had cache keys.
    fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        let lookup = self.take_lookup()?;
        let has_keys =
            lookup.result_cache_response.is_some() || !lookup.global_cache_responses.is_empty();
        has_keys.then(|| cache::read_lookup(&lookup))
    }

    fn take_quotas(&mut self) -> Vec<Quota> {
        self.quotas()
    }

    fn take_http_extras(&mut self) -> Option<Box<HttpExtras>> {
        self.take_extras()
    }
}

impl BackendTicket for RemoteFlow {
    fn end_and_wait(self, outcome: FlowOutcome) -> impl Future<Output = EndResponse> + Send {
        RemoteFlow::end_and_wait(self, outcome)
    }

    fn cache_lookup(&self) -> Option<&dyn ReadLookup> {
        let lookup = self.decision().cache_lookup_response.as_ref()?;
        Some(lookup)
    }

    fn queue_time(&self) -> Option<Duration> {
        RemoteFlow::queue_time(self)
    }
}
