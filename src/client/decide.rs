//! The client as the decider of a layer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::{ApertureClient, Backend};
use crate::flow::WaitSpan;
#[cfg(any(feature = "embedded", feature = "remote"))]
use crate::flow::encode::{EncodedLabels, encode_baggage};
#[cfg(any(feature = "embedded", feature = "remote"))]
use crate::flow::http::fit::FittedAttributes;
use crate::flow::{
    CacheLookup, Caches, Check, Decider, FlowError, FlowErrorKind, FlowOutcome, FlowParams,
    HttpAttributes, HttpExtras, Quota, Ticket, Verdict,
};
use crate::meter::{CheckTimer, EndCounter};

/// The ticket of a flow of an [`ApertureClient`].
///
/// Layers keep it until the response body ends. Without a layer, use a [`Flow`](crate::Flow).
///
/// ```
/// use tower_aperture::client::ClientTicket;
/// use tower_aperture::layer::Aperture;
/// use tower_aperture::{ApertureClient, Decider};
///
/// fn is_ticket_of<D: Decider<Ticket = ClientTicket>>() {}
/// is_ticket_of::<ApertureClient>();
/// ```
#[derive(Debug)]
pub struct ClientTicket {
    pub(super) kind: TicketKind,
    pub(super) end_counter: EndCounter,
}

#[derive(Debug)]
pub(super) enum TicketKind {
    #[cfg(feature = "embedded")]
    Embedded(<crate::Engine as Decider>::Ticket),
    #[cfg(feature = "remote")]
    Remote(crate::remote::RemoteFlow),
    #[cfg(feature = "test-util")]
    Scripted(super::scripted::ScriptedFlow),
}

impl From<TicketKind> for ClientTicket {
    #[inline]
    fn from(kind: TicketKind) -> Self {
        let end_counter = EndCounter::default();
        Self { kind, end_counter }
    }
}

impl Ticket for ClientTicket {
    fn end(self, outcome: FlowOutcome) {
        self.end_counter.count_end(outcome.status);
        match self.kind {
            #[cfg(feature = "embedded")]
            TicketKind::Embedded(ticket) => ticket.end(outcome),
            #[cfg(feature = "remote")]
            TicketKind::Remote(flow) => flow.end(outcome),
            #[cfg(feature = "test-util")]
            TicketKind::Scripted(flow) => flow.end(outcome),
        }
    }

    fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        match self.kind {
            #[cfg(feature = "embedded")]
            TicketKind::Embedded(ref mut ticket) => ticket.take_cache_lookup(),
            // Every message has a lookup. Only the results in it show that the flow had cache keys.
            #[cfg(feature = "remote")]
            TicketKind::Remote(ref mut flow) => {
                let lookup = flow.take_lookup()?;
                let has_keys = lookup.result_cache_response.is_some()
                    || !lookup.global_cache_responses.is_empty();
                has_keys.then(|| super::cache::messages::read_lookup(&lookup))
            }
            #[cfg(feature = "test-util")]
            TicketKind::Scripted(_) => None,
        }
    }

    fn take_quotas(&mut self) -> Vec<Quota> {
        match self.kind {
            #[cfg(feature = "embedded")]
            TicketKind::Embedded(ref mut ticket) => ticket.take_quotas(),
            #[cfg(feature = "remote")]
            TicketKind::Remote(ref flow) => flow.quotas(),
            #[cfg(feature = "test-util")]
            TicketKind::Scripted(_) => Vec::new(),
        }
    }

    fn take_http_extras(&mut self) -> Option<Box<HttpExtras>> {
        match self.kind {
            #[cfg(feature = "embedded")]
            TicketKind::Embedded(ref mut ticket) => ticket.take_http_extras(),
            #[cfg(feature = "remote")]
            TicketKind::Remote(ref mut flow) => flow.take_extras(),
            #[cfg(feature = "test-util")]
            TicketKind::Scripted(_) => None,
        }
    }
}

/// The future of a verdict of an [`ApertureClient`].
///
/// Dropping it abandons the flow: slots that the Agent grants meanwhile are returned in the
/// background.
///
/// ```
/// use tower_aperture::client::ClientPending;
/// use tower_aperture::{ApertureClient, Decider};
///
/// fn is_pending_of<D: Decider<Pending = ClientPending>>() {}
/// is_pending_of::<ApertureClient>();
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct ClientPending {
    client: ApertureClient,
    kind: PendingKind,
    timer: CheckTimer,
    shadow: bool,
    span: WaitSpan,
}

enum PendingKind {
    #[cfg(feature = "embedded")]
    Embedded(<crate::Engine as Decider>::Pending),
    #[cfg(feature = "remote")]
    Remote(crate::remote::PendingCheck),
    #[cfg(feature = "test-util")]
    Scripted(super::scripted::ScriptedPending),
}

impl fmt::Debug for ClientPending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientPending")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl Future for ClientPending {
    type Output = Verdict<ClientTicket>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self {
            client,
            kind,
            timer,
            shadow,
            span,
        } = self.get_mut();
        span.in_scope(|| {
            let mut verdict = ready!(kind.poll(timer, cx));
            client.record_verdict(timer, *shadow, None, false, &mut verdict);
            Poll::Ready(verdict)
        })
    }
}

impl PendingKind {
    fn poll(
        &mut self,
        timer: &mut CheckTimer,
        cx: &mut Context<'_>,
    ) -> Poll<Verdict<ClientTicket>> {
        match *self {
            #[cfg(feature = "embedded")]
            Self::Embedded(ref mut pending) => {
                let polled = Pin::new(pending).poll(cx);
                if polled.is_pending() {
                    timer.mark_queued();
                }
                polled.map(|verdict| wrap(verdict, TicketKind::Embedded))
            }
            #[cfg(feature = "remote")]
            Self::Remote(ref mut pending) => {
                Pin::new(pending).poll(cx).map(|result| match result {
                    Ok(flow) => {
                        timer.set_queue_time(|| flow.queue_time());
                        match flow.denial() {
                            None => Verdict::Accepted(TicketKind::Remote(flow).into()),
                            Some(denial) => {
                                Verdict::Rejected(denial, TicketKind::Remote(flow).into())
                            }
                        }
                    }
                    Err(error) => Verdict::Unreachable(error),
                })
            }
            #[cfg(feature = "test-util")]
            Self::Scripted(ref mut pending) => {
                let polled = Pin::new(pending).poll(cx);
                if polled.is_pending() {
                    timer.mark_queued();
                }
                polled.map(|verdict| wrap(verdict, TicketKind::Scripted))
            }
        }
    }
}

#[cfg(any(feature = "embedded", feature = "test-util"))]
fn wrap<T>(verdict: Verdict<T>, kind: impl FnOnce(T) -> TicketKind) -> Verdict<ClientTicket> {
    match verdict {
        Verdict::Accepted(ticket) => Verdict::Accepted(kind(ticket).into()),
        Verdict::Rejected(denial, ticket) => Verdict::Rejected(denial, kind(ticket).into()),
        Verdict::Unreachable(error) => Verdict::Unreachable(error),
    }
}

impl Decider for ApertureClient {
    type Ticket = ClientTicket;
    type Pending = ClientPending;

    fn decide(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Check<Self::Ticket, Self::Pending> {
        let labels = &params.labels;
        let mut timer = self.start_check(control_point, labels.dropped(), labels.shortened());
        if control_point.is_empty() {
            return self.ready(&mut timer, control_point, params, empty_control_point());
        }
        match &self.inner.backend {
            Backend::Disabled => {
                let error = FlowError::new(FlowErrorKind::Disabled, "");
                self.ready(
                    &mut timer,
                    control_point,
                    params,
                    Verdict::Unreachable(error),
                )
            }
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => {
                let mut engine_check = self.engine_check(params);
                let mut check = engine.decide_as(
                    control_point,
                    params,
                    &mut engine_check,
                    |ticket| TicketKind::Embedded(ticket).into(),
                    |pending| {
                        let kind = PendingKind::Embedded(pending);
                        self.pending(timer.take(), control_point, params, kind)
                    },
                );
                if let Check::Ready(verdict) = &mut check {
                    self.record_verdict(
                        &mut timer,
                        params.shadow,
                        Some(control_point),
                        engine_check.undecided,
                        verdict,
                    );
                }
                check
            }
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => {
                let check = remote.check(control_point, params);
                self.pending_remote(timer, control_point, params, check)
            }
            #[cfg(feature = "test-util")]
            Backend::Scripted(script) => match script.decide(control_point, params) {
                Check::Ready(verdict) => {
                    let verdict = wrap(verdict, TicketKind::Scripted);
                    self.ready(&mut timer, control_point, params, verdict)
                }
                Check::Pending(pending) => {
                    let kind = PendingKind::Scripted(pending);
                    Check::Pending(self.pending(timer, control_point, params, kind))
                }
            },
        }
    }

    fn knows_control_point(&self, name: &str) -> Option<bool> {
        match &self.inner.backend {
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => engine.knows_control_point(name),
            // Only an engine has the policies.
            _ => {
                let _ = name;
                None
            }
        }
    }

    fn compares_label_value(&self, value: &str) -> Option<bool> {
        match &self.inner.backend {
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => engine.compares_label_value(value),
            // Only an engine has the policies.
            _ => {
                let _ = value;
                None
            }
        }
    }

    fn caches(&self) -> Option<Arc<dyn Caches>> {
        match &self.inner.backend {
            #[cfg(feature = "embedded")]
            Backend::Embedded(_) => Some(Arc::clone(&self.inner) as _),
            #[cfg(feature = "remote")]
            Backend::Remote(_) => Some(Arc::clone(&self.inner) as _),
            _ => None,
        }
    }

    /// Decides about a flow by the attributes of its HTTP request.
    ///
    /// An embedded engine and an Agent make labels of the request. The client sends the flow's own
    /// labels as members of `baggage`, encoded so that they arrive unchanged. If they exceed the
    /// limits of W3C Baggage, the largest values that clients can choose are sent as a hash and
    /// counted as [shortened](crate::ClientStats::labels_shortened). Labels whose key is not an HTTP
    /// token, or that still do not fit, are left out and counted as
    /// [dropped](crate::ClientStats::labels_dropped).
    fn decide_http(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
    ) -> Check<Self::Ticket, Self::Pending> {
        #[cfg(any(feature = "embedded", feature = "remote"))]
        let fitted = request.fit(control_point);
        #[cfg(any(feature = "embedded", feature = "remote"))]
        let fitted_request = fitted.as_ref().map(FittedAttributes::attributes);
        #[cfg(any(feature = "embedded", feature = "remote"))]
        let request = fitted_request.as_ref().unwrap_or(request);
        match &self.inner.backend {
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) if !control_point.is_empty() => {
                let (baggage, mut timer) =
                    self.start_http_check(control_point, params, fitted.as_ref());
                let mut engine_check = self.engine_check(params);
                let baggage = baggage.as_deref();
                match engine.check_http_attributes(
                    control_point,
                    params,
                    &mut engine_check,
                    request,
                    baggage,
                ) {
                    Check::Ready(verdict) => {
                        let mut verdict = wrap(verdict, TicketKind::Embedded);
                        self.record_verdict(
                            &mut timer,
                            params.shadow,
                            Some(control_point),
                            engine_check.undecided,
                            &mut verdict,
                        );
                        Check::Ready(verdict)
                    }
                    Check::Pending(pending) => {
                        let kind = PendingKind::Embedded(pending);
                        Check::Pending(self.pending(timer, control_point, params, kind))
                    }
                }
            }
            #[cfg(feature = "remote")]
            Backend::Remote(remote) if !control_point.is_empty() => {
                let (baggage, timer) =
                    self.start_http_check(control_point, params, fitted.as_ref());
                let check = remote.check_http(control_point, params, request, baggage);
                self.pending_remote(timer, control_point, params, check)
            }
            // No backend makes labels of the request; a script records those of the flow.
            _ => self.decide(control_point, params),
        }
    }
}

pub(super) fn empty_control_point<T>() -> Verdict<T> {
    let why = "the control point is empty";
    Verdict::Unreachable(FlowError::new(FlowErrorKind::InvalidRequest, why))
}

impl ApertureClient {
    /// Starts the record of a flow whose labels are sent in the `baggage` header, and makes the
    /// header.
    #[cfg(any(feature = "embedded", feature = "remote"))]
    fn start_http_check(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        fitted: Option<&FittedAttributes<'_>>,
    ) -> (Option<String>, CheckTimer) {
        let labels = &params.labels;
        let EncodedLabels {
            header,
            dropped,
            shortened,
        } = encode_baggage(labels);
        let mut dropped = labels.dropped().saturating_add(dropped);
        let mut shortened = labels.shortened().saturating_add(shortened);
        if let Some(fitted) = fitted {
            dropped = dropped.saturating_add(fitted.dropped);
            shortened = shortened.saturating_add(fitted.shortened);
        }
        (header, self.start_check(control_point, dropped, shortened))
    }

    fn ready(
        &self,
        timer: &mut CheckTimer,
        control_point: &str,
        params: &FlowParams<'_>,
        mut verdict: Verdict<ClientTicket>,
    ) -> Check<ClientTicket, ClientPending> {
        self.record_verdict(
            timer,
            params.shadow,
            Some(control_point),
            false,
            &mut verdict,
        );
        Check::Ready(verdict)
    }

    #[cfg(feature = "remote")]
    fn pending_remote(
        &self,
        mut timer: CheckTimer,
        control_point: &str,
        params: &FlowParams<'_>,
        check: Result<crate::remote::PendingCheck, FlowError>,
    ) -> Check<ClientTicket, ClientPending> {
        match check {
            Ok(pending) => {
                let kind = PendingKind::Remote(pending);
                Check::Pending(self.pending(timer, control_point, params, kind))
            }
            Err(error) => self.ready(
                &mut timer,
                control_point,
                params,
                Verdict::Unreachable(error),
            ),
        }
    }

    #[cfg(any(feature = "embedded", feature = "remote", feature = "test-util"))]
    fn pending(
        &self,
        timer: CheckTimer,
        control_point: &str,
        params: &FlowParams<'_>,
        kind: PendingKind,
    ) -> ClientPending {
        ClientPending {
            client: self.clone(),
            kind,
            timer,
            shadow: params.shadow,
            span: WaitSpan::new(control_point),
        }
    }
}
