//! The future of a verdict, from whichever backend decides.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::backend::{Backend, BackendTicket, EmbeddedBackend, RemoteBackend, Script};
use super::shared::ApertureClient;
use super::ticket::{ClientTicket, TicketKind, wrap};
use crate::flow::{FlowParams, Verdict, WaitSpan};
use crate::meter::{CheckTimer, ClientCheckTimer};

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
    timer: ClientCheckTimer,
    shadow: bool,
    span: WaitSpan,
}

pub(super) enum PendingKind {
    Embedded(<EmbeddedBackend as Backend>::Pending),
    Remote(<RemoteBackend as Backend>::Pending),
    Scripted(<Script as Backend>::Pending),
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
        timer: &mut ClientCheckTimer,
        cx: &mut Context<'_>,
    ) -> Poll<Verdict<ClientTicket>> {
        match self {
            Self::Embedded(pending) => {
                poll::<EmbeddedBackend>(pending, TicketKind::Embedded, timer, cx)
            }
            Self::Remote(pending) => poll::<RemoteBackend>(pending, TicketKind::Remote, timer, cx),
            Self::Scripted(pending) => poll::<Script>(pending, TicketKind::Scripted, timer, cx),
        }
    }
}

/// Polls a check, and records how long the flow waits in a scheduler.
fn poll<B: Backend>(
    pending: &mut B::Pending,
    kind: impl FnOnce(B::Ticket) -> TicketKind,
    timer: &mut ClientCheckTimer,
    cx: &mut Context<'_>,
) -> Poll<Verdict<ClientTicket>> {
    let polled = B::poll(pending, cx);
    match &polled {
        Poll::Pending if B::QUEUES_IN_PROCESS => timer.mark_queued(),
        Poll::Ready(Verdict::Accepted(ticket) | Verdict::Rejected(_, ticket)) => {
            timer.set_queue_time(|| ticket.queue_time());
        }
        _ => {}
    }
    polled.map(|verdict| wrap(verdict, kind))
}

impl ApertureClient {
    pub(super) fn pending(
        &self,
        timer: ClientCheckTimer,
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
