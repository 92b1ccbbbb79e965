//! The backend that decides in process, with an engine.

mod reporting;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use self::reporting::{ReportedTicket, ReportingEngine};
use super::{Backend, BackendTicket, CacheBackend, HttpBackend, ReportingBackend};
use crate::Engine;
use crate::client::cache::{CacheWrites, ReadLookup, only_result};
use crate::client::shared::{ApertureClient, CHECK_TIMEOUT};
use crate::engine::{CacheEntry, DecideContext, EngineTicket, PendingCacheChange, Shared};
use crate::flow::{
    CacheChange, CacheError, CacheKey, CacheLookup, Check, ControlPoint, Decider, FlowParams,
    HttpAttributes, Invalidations, LabelSource, PendingInvalidation, Verdict, WaitSpan,
};
use crate::meter::{CheckTimer, ClientCheckTimer, ClientMeter};

/// An engine, with the check timeout of the client.
pub(in crate::client) struct EmbeddedBackend {
    /// An engine of either mode.
    engine: Engine<Shared>,
    /// The check timeout of flows that set none; zero means no limit.
    check_timeout: Duration,
    /// The context of a decision about a flow that sets no time.
    context: DecideContext,
}

impl ApertureClient {
    /// Returns a client that decides in process, by an engine of either
    /// [mode](crate::engine::EngineMode).
    ///
    /// A scheduler queues a flow for at most 200 ms, as with an Agent, unless the flow or its layer
    /// has a [check timeout](crate::FlowParams::check_timeout) of its own or the client is made
    /// [with another one](Self::embedded_with_check_timeout). The client logs a warning for the
    /// first flow whose scheduler has a longer `queue_timeout`.
    ///
    /// ```
    /// use tower_aperture::{ApertureClient, Engine};
    ///
    /// let engine = Engine::builder().build()?;
    /// let client = ApertureClient::embedded(engine);
    /// # let _ = client;
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[must_use]
    pub fn embedded(engine: impl Into<Engine<Shared>>) -> Self {
        Self::embedded_with_check_timeout(engine, CHECK_TIMEOUT)
    }

    /// Returns a client that decides in process and has this default check timeout.
    ///
    /// A flow without a check timeout of its own waits in schedulers for at most `check_timeout`.
    /// Zero means no limit: a flow then waits as long as its policies allow.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_aperture::{ApertureClient, Engine};
    ///
    /// // The policies of this engine queue flows for up to two seconds.
    /// let engine = Engine::builder().build()?;
    /// let client = ApertureClient::embedded_with_check_timeout(engine, Duration::from_secs(2));
    /// # let _ = client;
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[must_use]
    pub fn embedded_with_check_timeout(
        engine: impl Into<Engine<Shared>>,
        check_timeout: Duration,
    ) -> Self {
        Self::with(EmbeddedBackend {
            engine: engine.into(),
            check_timeout,
            context: DecideContext::new(FlowParams::new().budget(Some(check_timeout))),
        })
    }
}

impl EmbeddedBackend {
    /// Returns the context of a decision, with the budget of the flow.
    #[inline(always)]
    fn context(&self, params: &FlowParams<'_>) -> DecideContext {
        match (params.check_timeout, params.caller_timeout) {
            (None, None) => self.context,
            _ => DecideContext::new(params.budget(Some(self.check_timeout))),
        }
    }

    fn start_store(&self, key: CacheKey<'_>, value: &[u8], ttl: Duration) -> PendingCacheChange {
        let entry = CacheEntry::new(key.as_str(), value).ttl(Some(ttl));
        match key {
            CacheKey::Result { control_point, .. } => {
                self.engine
                    .start_cache_upsert(control_point, Some(entry), [])
            }
            CacheKey::Global { .. } => self.engine.start_cache_upsert("", None, [entry]),
        }
    }

    fn start_delete(&self, key: CacheKey<'_>) -> PendingCacheChange {
        match key {
            CacheKey::Result { control_point, key } => {
                self.engine.start_cache_delete(control_point, key, [])
            }
            CacheKey::Global { key } => self.engine.start_cache_delete("", "", [key]),
        }
    }
}

impl Backend for EmbeddedBackend {
    type Ticket = EngineTicket;
    type Pending = <Engine<Shared> as Decider>::Pending;

    const QUEUES_IN_PROCESS: bool = true;

    #[inline(always)]
    fn decide_as<T, P>(
        &self,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        labels: &dyn LabelSource,
        undecided: &mut bool,
        ticket: impl Fn(Self::Ticket) -> T,
        pending: impl FnOnce(Self::Pending) -> P,
    ) -> Check<T, P> {
        let mut context = self.context(params);
        let check =
            self.engine
                .decide_as(control_point, params, labels, &mut context, ticket, pending);
        *undecided = context.undecided;
        check
    }

    #[inline(always)]
    fn passes(&self, control_point: ControlPoint<'_>, params: &FlowParams<'_>) -> bool {
        self.engine.passes(control_point, params)
    }

    #[inline(always)]
    fn admit<T, P>(
        &self,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        labels: &dyn LabelSource,
        undecided: &mut bool,
        ticket: impl Fn(EngineTicket) -> T,
        pending: impl FnOnce(Self::Pending) -> P,
    ) -> Option<Check<T, P>> {
        let check = self.decide_as(
            control_point,
            params,
            labels,
            undecided,
            |it| it.if_needed().map(&ticket),
            pending,
        );
        Some(match check {
            Check::Ready(Verdict::Accepted(it)) => Check::Ready(Verdict::Accepted(it?)),
            Check::Ready(Verdict::Rejected(denial, it)) => {
                let it = it.unwrap_or_else(|| ticket(EngineTicket::of_nothing()));
                Check::Ready(Verdict::Rejected(denial, it))
            }
            Check::Ready(Verdict::Unreachable(error)) => Check::Ready(Verdict::Unreachable(error)),
            Check::Pending(it) => Check::Pending(it),
        })
    }

    fn poll(pending: &mut Self::Pending, cx: &mut Context<'_>) -> Poll<Verdict<Self::Ticket>> {
        Pin::new(pending).poll(cx)
    }

    fn knows_control_point(&self, name: &str) -> Option<bool> {
        self.engine.knows_control_point(name)
    }

    fn compares_label_value(&self, value: &str) -> Option<bool> {
        self.engine.compares_label_value(value)
    }

    fn invalidations(&self) -> Invalidations {
        self.engine.invalidations().clone()
    }
}

impl HttpBackend for EmbeddedBackend {
    fn decide_http(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        undecided: &mut bool,
        request: &HttpAttributes<'_>,
        baggage: Option<String>,
    ) -> Check<Self::Ticket, Self::Pending> {
        let mut context = self.context(params);
        let baggage = baggage.as_deref();
        let check = self.engine.check_http_attributes(
            control_point,
            params,
            &mut context,
            request,
            baggage,
        );
        *undecided = context.undecided;
        check
    }
}

impl ReportingBackend for EmbeddedBackend {
    type ReportedTicket = Box<ReportedTicket>;

    async fn decide_with_report(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        timer: &mut ClientCheckTimer,
        meter: &ClientMeter,
    ) -> (Verdict<Self::ReportedTicket>, bool) {
        let decider = ReportingEngine {
            engine: &self.engine,
            check_timeout: Some(self.check_timeout),
        };
        let verdict = match decider.decide(control_point, params) {
            Check::Ready(verdict) => verdict,
            Check::Pending(pending) => {
                let span = WaitSpan::new(control_point);
                let mut pending = pin!(pending);
                poll_fn(|cx| {
                    let polled = span.in_scope(|| pending.as_mut().poll(cx));
                    if polled.is_pending() {
                        timer.mark_queued();
                    }
                    polled
                })
                .await
            }
        };
        let mut undecided = false;
        if let Verdict::Accepted(ticket) | Verdict::Rejected(_, ticket) = &verdict {
            let report = ticket.report();
            undecided = report.undecided;
            if let Some(lookup) = &report.cache_lookup {
                lookup.count(meter);
            }
        }
        (verdict, undecided)
    }
}

impl CacheBackend for EmbeddedBackend {
    async fn lookup(&self, key: CacheKey<'_>) -> Result<CacheLookup, CacheError> {
        let lookup = match key {
            CacheKey::Result { control_point, key } => {
                self.engine.start_cache_lookup(control_point, key, [])
            }
            CacheKey::Global { key } => self.engine.start_cache_lookup("", "", [key]),
        };
        Ok(lookup.await)
    }

    async fn store(
        &self,
        key: CacheKey<'_>,
        value: Bytes,
        ttl: Duration,
    ) -> Result<CacheChange, CacheError> {
        Ok(self.start_store(key, &value, ttl).await)
    }

    async fn delete(&self, key: CacheKey<'_>) -> Result<CacheChange, CacheError> {
        Ok(self.start_delete(key).await)
    }

    fn store_later(
        &self,
        key: CacheKey<'_>,
        value: Bytes,
        ttl: Duration,
        writes: &Arc<CacheWrites>,
    ) -> Option<CacheChange> {
        let writes = Arc::clone(writes);
        self.start_store(key, &value, ttl)
            .now_or_later(move |change| writes.count(only_result(change)))
    }

    fn delete_later(&self, key: CacheKey<'_>, writes: &Arc<CacheWrites>) -> Option<CacheChange> {
        let writes = Arc::clone(writes);
        self.start_delete(key)
            .now_or_later(move |change| writes.count(only_result(change)))
    }

    fn invalidate_later(
        &self,
        key: CacheKey<'_>,
        pending: PendingInvalidation,
        writes: &Arc<CacheWrites>,
    ) -> Option<CacheChange> {
        let deletion = self.start_delete(key);
        if deletion.is_done() {
            // The engine refuses to delete only keys that it never stores.
            pending.succeeded();
            return deletion.now_or_later(drop);
        }
        let writes = Arc::clone(writes);
        deletion.now_or_later(move |change| {
            let deleted = only_result(change);
            // A deletion that failed is lost: dropping `pending` keeps the key out of the cache.
            if deleted.is_ok() {
                pending.succeeded();
            }
            writes.count(deleted);
        })
    }
}

impl BackendTicket for EngineTicket {
    fn cache_lookup(&self) -> Option<&dyn ReadLookup> {
        EngineTicket::cache_lookup(self).map(|lookup| lookup as _)
    }
}
