//! The client as the decider of a layer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::{ApertureClient, Backend};
#[cfg(any(feature = "embedded", feature = "remote"))]
use crate::flow::http::baggage_of;
use crate::flow::{
    CacheLookup, Check, Decider, FlowError, FlowErrorKind, FlowOutcome, FlowParams, HttpAttributes,
    HttpExtras, Ticket, Verdict,
};

/// An answered flow of an [`ApertureClient`], to be ended once.
///
/// Layers hold it until the response body is over; by hand you hold a [`Flow`](crate::Flow).
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
pub struct ClientTicket(pub(super) TicketKind);

#[derive(Debug)]
pub(super) enum TicketKind {
    #[cfg(feature = "embedded")]
    Embedded(<crate::Engine as Decider>::Ticket),
    #[cfg(feature = "remote")]
    Remote(crate::remote::RemoteFlow),
    #[cfg(feature = "test-util")]
    Scripted(super::scripted::ScriptedFlow),
}

impl Ticket for ClientTicket {
    fn end(self, outcome: FlowOutcome) {
        match self.0 {
            #[cfg(feature = "embedded")]
            TicketKind::Embedded(ticket) => ticket.end(outcome),
            #[cfg(feature = "remote")]
            TicketKind::Remote(flow) => flow.end(outcome),
            #[cfg(feature = "test-util")]
            TicketKind::Scripted(flow) => flow.end(outcome),
        }
    }

    fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        match self.0 {
            #[cfg(feature = "embedded")]
            TicketKind::Embedded(ref mut ticket) => ticket.take_cache_lookup(),
            // Each message has a lookup; what matters is whether the flow asked.
            #[cfg(feature = "remote")]
            TicketKind::Remote(ref flow) => {
                let lookup = flow.response().cache_lookup_response.as_ref()?;
                let asked = lookup.result_cache_response.is_some()
                    || !lookup.global_cache_responses.is_empty();
                asked.then(|| super::cache::wire::looked_up(lookup))
            }
            #[cfg(feature = "test-util")]
            TicketKind::Scripted(_) => None,
        }
    }

    fn take_http_extras(&mut self) -> Option<Box<HttpExtras>> {
        match self.0 {
            #[cfg(feature = "embedded")]
            TicketKind::Embedded(ref mut ticket) => ticket.take_http_extras(),
            #[cfg(feature = "remote")]
            TicketKind::Remote(ref mut flow) => flow.take_extras(),
            #[cfg(feature = "test-util")]
            TicketKind::Scripted(_) => None,
        }
    }
}

/// A decision of an [`ApertureClient`] that is under way.
///
/// Dropping it gives up the flow: what the Agent grants meanwhile is given back in the background.
///
/// ```
/// use tower_aperture::client::ClientPending;
/// use tower_aperture::{ApertureClient, Decider};
///
/// fn is_pending_of<D: Decider<Pending = ClientPending>>() {}
/// is_pending_of::<ApertureClient>();
/// ```
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct ClientPending {
    client: ApertureClient,
    kind: PendingKind,
}

enum PendingKind {
    #[cfg(feature = "embedded")]
    Embedded(<crate::Engine as Decider>::Pending),
    #[cfg(feature = "remote")]
    Remote(crate::remote::PendingCheck),
    #[cfg(feature = "test-util")]
    Scripted(super::scripted::ScriptedPending),
}

impl fmt::Debug for PendingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

impl Future for ClientPending {
    type Output = Verdict<ClientTicket>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let verdict: Verdict<ClientTicket> = match this.kind {
            #[cfg(feature = "embedded")]
            PendingKind::Embedded(ref mut pending) => {
                wrap(ready!(Pin::new(pending).poll(cx)), TicketKind::Embedded)
            }
            #[cfg(feature = "remote")]
            PendingKind::Remote(ref mut pending) => match ready!(Pin::new(pending).poll(cx)) {
                Ok(flow) => match flow.denial() {
                    None => Verdict::Accepted(ClientTicket(TicketKind::Remote(flow))),
                    Some(denial) => {
                        Verdict::Rejected(denial, ClientTicket(TicketKind::Remote(flow)))
                    }
                },
                Err(error) => Verdict::Unreachable(error),
            },
            #[cfg(feature = "test-util")]
            PendingKind::Scripted(ref mut pending) => {
                wrap(ready!(Pin::new(pending).poll(cx)), TicketKind::Scripted)
            }
        };
        this.client.inner.counters.count(&verdict);
        Poll::Ready(verdict)
    }
}

#[cfg(any(feature = "embedded", feature = "test-util"))]
pub(super) fn wrap<T>(
    verdict: Verdict<T>,
    kind: impl FnOnce(T) -> TicketKind,
) -> Verdict<ClientTicket> {
    match verdict {
        Verdict::Accepted(ticket) => Verdict::Accepted(ClientTicket(kind(ticket))),
        Verdict::Rejected(denial, ticket) => Verdict::Rejected(denial, ClientTicket(kind(ticket))),
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
        let counters = &self.inner.counters;
        counters.count_dropped_labels(params.labels.dropped());
        if control_point.is_empty() {
            return self.ready(Verdict::Unreachable(FlowError::new(
                FlowErrorKind::InvalidRequest,
                "the control point is empty",
            )));
        }
        match &self.inner.backend {
            Backend::Disabled => self.ready(Verdict::Unreachable(FlowError::new(
                FlowErrorKind::Disabled,
                "",
            ))),
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => match engine.decide(control_point, params) {
                Check::Ready(verdict) => self.ready(wrap(verdict, TicketKind::Embedded)),
                Check::Pending(pending) => self.pending(PendingKind::Embedded(pending)),
            },
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => match remote.check(control_point, params) {
                Ok(pending) => self.pending(PendingKind::Remote(pending)),
                Err(error) => self.ready(Verdict::Unreachable(error)),
            },
            #[cfg(feature = "test-util")]
            Backend::Scripted(script) => match script.decide(control_point, params) {
                Check::Ready(verdict) => self.ready(wrap(verdict, TicketKind::Scripted)),
                Check::Pending(pending) => self.pending(PendingKind::Scripted(pending)),
            },
        }
    }

    /// An embedded engine and an Agent make labels of the request; the flow's own are members of
    /// `baggage`, encoded so that they come out as they are. Those whose key is no token of HTTP, or
    /// that do not fit the limits of W3C Baggage, do not travel and are counted as
    /// [dropped](crate::ClientStats::labels_dropped).
    fn decide_http(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
    ) -> Check<Self::Ticket, Self::Pending> {
        match &self.inner.backend {
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) if !control_point.is_empty() => {
                let baggage = self.baggage_of(params);
                match engine.ask_http(control_point, params, request, baggage.as_deref()) {
                    Check::Ready(verdict) => self.ready(wrap(verdict, TicketKind::Embedded)),
                    Check::Pending(pending) => self.pending(PendingKind::Embedded(pending)),
                }
            }
            #[cfg(feature = "remote")]
            Backend::Remote(remote) if !control_point.is_empty() => {
                let baggage = self.baggage_of(params);
                match remote.check_http(control_point, params, request, baggage) {
                    Ok(pending) => self.pending(PendingKind::Remote(pending)),
                    Err(error) => self.ready(Verdict::Unreachable(error)),
                }
            }
            // Nobody there to make labels; a script has those of the flow.
            _ => self.decide(control_point, params),
        }
    }
}

impl ApertureClient {
    /// The flow's own labels, as the header that makes them labels again.
    #[cfg(any(feature = "embedded", feature = "remote"))]
    fn baggage_of(&self, params: &FlowParams<'_>) -> Option<String> {
        let (baggage, lost) = baggage_of(&params.labels);
        let dropped = params.labels.dropped().saturating_add(lost);
        self.inner.counters.count_dropped_labels(dropped);
        baggage
    }

    fn ready(&self, verdict: Verdict<ClientTicket>) -> Check<ClientTicket, ClientPending> {
        self.inner.counters.count(&verdict);
        Check::Ready(verdict)
    }

    #[cfg(any(feature = "embedded", feature = "remote", feature = "test-util"))]
    fn pending(&self, kind: PendingKind) -> Check<ClientTicket, ClientPending> {
        Check::Pending(ClientPending {
            client: self.clone(),
            kind,
        })
    }
}
