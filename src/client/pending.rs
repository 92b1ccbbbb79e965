//! The future of a verdict, from whichever backend decides.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::shared::ApertureClient;
#[cfg(any(feature = "embedded", feature = "test-util"))]
use super::ticket::wrap;
use super::ticket::{ClientTicket, TicketKind};
#[cfg(feature = "embedded")]
use crate::flow::Decider;
use crate::flow::WaitSpan;
use crate::flow::{FlowParams, Verdict};
use crate::meter::CheckTimer;

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

pub(super) enum PendingKind {
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

impl ApertureClient {
    #[cfg(any(feature = "embedded", feature = "remote", feature = "test-util"))]
    pub(super) fn pending(
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
