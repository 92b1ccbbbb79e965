//! What decides about the flows of a client: an embedded engine, an Agent, a script, or nothing.
//!
//! Each backend implements [`Backend`]. The type of a backend whose feature is off has no values, so
//! that the rest of the client is the same for all features.

#[cfg(not(all(feature = "embedded", feature = "remote", feature = "test-util")))]
mod absent;
#[cfg(feature = "embedded")]
mod embedded;
#[cfg(not(feature = "embedded"))]
mod embedded {
    pub(in crate::client) type EmbeddedBackend = super::absent::Absent<0>;
}
#[cfg(feature = "remote")]
mod remote;
#[cfg(not(feature = "remote"))]
mod remote {
    pub(in crate::client) type RemoteBackend = super::absent::Absent<1>;
}
#[cfg(feature = "test-util")]
pub(super) mod scripted;
#[cfg(not(feature = "test-util"))]
mod scripted {
    pub(in crate::client) type Script = super::absent::Absent<2>;
}

use std::future::{Future, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::cache::{CacheWrites, ReadLookup};
use crate::flow::{
    AgentStatus, CacheChange, CacheError, CacheKey, CacheLookup, Check, ClientStats,
    ConnectionState, ControlPoint, EndResponse, FlowOutcome, FlowParams, HttpAttributes,
    Invalidations, LabelSource, PendingInvalidation, Ticket, Verdict,
};
use crate::meter::{ClientCheckTimer, ClientMeter};

pub(super) use self::embedded::EmbeddedBackend;
pub(super) use self::remote::RemoteBackend;
pub(super) use self::scripted::Script;

/// The backend of a client.
pub(super) enum AnyBackend {
    /// Every flow is unreachable.
    Disabled,
    Embedded(EmbeddedBackend),
    Remote(RemoteBackend),
    Scripted(Script),
}

impl From<EmbeddedBackend> for AnyBackend {
    fn from(backend: EmbeddedBackend) -> Self {
        Self::Embedded(backend)
    }
}

impl From<RemoteBackend> for AnyBackend {
    fn from(backend: RemoteBackend) -> Self {
        Self::Remote(backend)
    }
}

impl From<Script> for AnyBackend {
    fn from(script: Script) -> Self {
        Self::Scripted(script)
    }
}

/// Decides about the flows of a client.
pub(super) trait Backend {
    type Ticket: BackendTicket;

    /// A check under way.
    type Pending;

    /// Whether a check that is not decided at once waits in a scheduler of this process.
    const QUEUES_IN_PROCESS: bool;

    /// Decides by these labels, with tickets and futures of another type, which the callbacks create
    /// in their final place. A backend that sends or keeps all labels reads those of `params`. Sets
    /// `undecided` if the flow was accepted and no component decided about it.
    fn decide_as<T, P>(
        &self,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        labels: &dyn LabelSource,
        undecided: &mut bool,
        ticket: impl Fn(Self::Ticket) -> T,
        pending: impl FnOnce(Self::Pending) -> P,
    ) -> Check<T, P>;

    /// Decides like [`decide_as`](Self::decide_as). May return `None` for an accepted flow whose end
    /// has no effect.
    fn admit<T, P>(
        &self,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        labels: &dyn LabelSource,
        undecided: &mut bool,
        ticket: impl Fn(Self::Ticket) -> T,
        pending: impl FnOnce(Self::Pending) -> P,
    ) -> Option<Check<T, P>> {
        Some(self.decide_as(control_point, params, labels, undecided, ticket, pending))
    }

    /// Returns the answer to [`Decider::passes`](crate::Decider::passes).
    fn passes(&self, _: ControlPoint<'_>, _: &FlowParams<'_>) -> bool {
        false
    }

    fn poll(pending: &mut Self::Pending, cx: &mut Context<'_>) -> Poll<Verdict<Self::Ticket>>;

    /// Returns whether no component decided about an accepted flow, as far as its ticket shows.
    fn is_undecided(&self, _: &Self::Ticket) -> bool {
        false
    }

    /// Returns the answer to [`Decider::knows_control_point`](crate::Decider::knows_control_point).
    /// Only an engine has the policies.
    fn knows_control_point(&self, _: &str) -> Option<bool> {
        None
    }

    /// Returns the answer to [`Decider::compares_label_value`](crate::Decider::compares_label_value).
    fn compares_label_value(&self, _: &str) -> Option<bool> {
        None
    }

    /// Returns the invalidations that all clients of the same caches share.
    fn invalidations(&self) -> Invalidations {
        Invalidations::default()
    }

    fn state(&self) -> ConnectionState {
        ConnectionState::Ready
    }

    fn agents(&self) -> Vec<AgentStatus> {
        Vec::new()
    }

    fn wait_ready(&self, _: Duration) -> impl Future<Output = bool> + Send {
        ready(true)
    }

    /// Adds the counts of the backend to those of the client.
    fn add_stats(&self, _: &mut ClientStats) {}

    fn shutdown(&self, _: Duration) -> impl Future<Output = bool> + Send {
        ready(true)
    }
}

/// A backend that makes labels of HTTP requests.
pub(super) trait HttpBackend: Backend {
    /// Decides about a flow by its request, whose header `baggage` has the labels of the flow. Sets
    /// `undecided` like [`decide_as`](Backend::decide_as).
    fn decide_http(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        undecided: &mut bool,
        request: &HttpAttributes<'_>,
        baggage: Option<String>,
    ) -> Check<Self::Ticket, Self::Pending>;
}

/// A backend that reports what each component decided, for flows without a layer.
pub(super) trait ReportingBackend: Backend {
    type ReportedTicket: BackendTicket;

    /// Decides about a flow, and counts the results of its cache lookup. Returns the verdict, and
    /// whether no component decided about the flow.
    fn decide_with_report(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        timer: &mut ClientCheckTimer,
        meter: &ClientMeter,
    ) -> impl Future<Output = (Verdict<Self::ReportedTicket>, bool)> + Send;
}

/// A backend with a result cache and a global cache.
pub(super) trait CacheBackend: Backend {
    fn lookup(
        &self,
        key: CacheKey<'_>,
    ) -> impl Future<Output = Result<CacheLookup, CacheError>> + Send;

    fn store(
        &self,
        key: CacheKey<'_>,
        value: Bytes,
        ttl: Duration,
    ) -> impl Future<Output = Result<CacheChange, CacheError>> + Send;

    fn delete(
        &self,
        key: CacheKey<'_>,
    ) -> impl Future<Output = Result<CacheChange, CacheError>> + Send;

    /// Stores a value without a wait. Returns the change if it is done; otherwise the backend makes
    /// and counts it in the background, with `writes` or counters of its own.
    fn store_later(
        &self,
        key: CacheKey<'_>,
        value: Bytes,
        ttl: Duration,
        writes: &Arc<CacheWrites>,
    ) -> Option<CacheChange>;

    /// Deletes a value without a wait, like [`store_later`](Self::store_later).
    fn delete_later(&self, key: CacheKey<'_>, writes: &Arc<CacheWrites>) -> Option<CacheChange>;

    /// Deletes a value without a wait, and completes the invalidation once the value is deleted.
    fn invalidate_later(
        &self,
        key: CacheKey<'_>,
        pending: PendingInvalidation,
        writes: &Arc<CacheWrites>,
    ) -> Option<CacheChange>;
}

/// The ticket of a backend.
pub(super) trait BackendTicket: Ticket + Sized {
    /// Ends the flow. The future waits for the response to the end.
    fn end_and_wait(self, outcome: FlowOutcome) -> impl Future<Output = EndResponse> + Send {
        self.end(outcome);
        ready(EndResponse::returned(Vec::new()))
    }

    /// Returns the result of the cache lookup at the start of the flow, if the check looked keys up.
    fn cache_lookup(&self) -> Option<&dyn ReadLookup> {
        None
    }

    /// Returns how long the flow waited at an Agent, if it did.
    fn queue_time(&self) -> Option<Duration> {
        None
    }
}
