//! The body of responses from the layer, which ends the flow when it ends.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::guard::FlowGuard;
use super::replacement_body::{NoBody, Polled, RejectBody};
use crate::flow::Ticket;

pin_project! {
    /// The body of every response from the layer: the body of the inner service or of the
    /// [reject hook](crate::layer::OnReject), or an empty body.
    ///
    /// It holds the flow of an accepted request and ends the flow when the body ends; see the
    /// [module documentation](crate::layer). Frames, trailers, the size hint and the end of the
    /// stream pass through unchanged. The default is the empty body.
    ///
    /// ```
    /// use http_body::Body;
    /// use http_body_util::Full;
    /// use tower_aperture::{ApertureClient, Decider};
    /// use tower_aperture::layer::{NoBody, ResponseBody};
    ///
    /// type Ticket = <ApertureClient as Decider>::Ticket;
    /// type MyBody = ResponseBody<Full<bytes::Bytes>, NoBody, Ticket>;
    ///
    /// assert_eq!(MyBody::default().size_hint().exact(), Some(0));
    /// ```
    pub struct ResponseBody<B, C, T>
    where
        T: Ticket,
    {
        #[pin]
        kind: Kind<B, C, T>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B, C, T>
    where
        T: Ticket,
    {
        /// The body of the inner service, without a flow.
        Inner { #[pin] body: B },
        /// The body of the inner service, with its flow.
        InFlow { #[pin] body: BodyInFlow<B, T> },
        /// The body of the reject hook.
        Replacement { #[pin] body: C },
        Empty,
    }
}

pin_project! {
    #[project = BodyInFlowProj]
    /// A body that ends its flow.
    struct BodyInFlow<B, T>
    where
        T: Ticket,
    {
        #[pin]
        body: B,
        // `None` after the end of the flow.
        guard: Option<FlowGuard<T>>,
        // Lets a drop query the body without trait bounds on the type.
        is_over: fn(&B) -> bool,
    }

    impl<B, T> PinnedDrop for BodyInFlow<B, T>
    where
        T: Ticket,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(guard) = this.guard {
                guard.body_dropped(|| (this.is_over)(&this.body));
            }
        }
    }
}

impl<B, C, T: Ticket> ResponseBody<B, C, T> {
    /// Wraps a body that has no flow.
    #[inline(always)]
    pub(crate) const fn without_flow(body: B) -> Self {
        Self {
            kind: Kind::Inner { body },
        }
    }

    /// Wraps the body of an accepted flow; `guard` ends the flow with the body.
    #[inline(always)]
    pub(crate) fn with_guard(body: B, guard: Option<FlowGuard<T>>) -> Self
    where
        B: Body,
    {
        Self {
            kind: Kind::InFlow {
                body: BodyInFlow {
                    body,
                    guard,
                    is_over: B::is_end_stream,
                },
            },
        }
    }

    /// Wraps the body of the reject hook.
    pub(crate) const fn replacement(body: C) -> Self {
        Self {
            kind: Kind::Replacement { body },
        }
    }

    /// Returns the replacement body, or else this body with [`NoBody`] as the replacement type.
    pub(super) fn into_replacement(mut self) -> Result<C, ResponseBody<B, NoBody, T>> {
        let kind = match mem::replace(&mut self.kind, Kind::Empty) {
            Kind::Replacement { body } => return Ok(body),
            Kind::Inner { body } => Kind::Inner { body },
            Kind::InFlow { body } => Kind::InFlow { body },
            Kind::Empty => Kind::Empty,
        };
        Err(ResponseBody { kind })
    }
}

impl<B, C, T> Body for ResponseBody<B, C, T>
where
    B: Body,
    C: RejectBody<B>,
    T: Ticket,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B> {
        match self.project().kind.project() {
            KindProj::Inner { body } => body.poll_frame(cx),
            KindProj::InFlow { body } => {
                let BodyInFlowProj { body, guard, .. } = body.project();
                match guard {
                    None => body.poll_frame(cx),
                    Some(_) => poll_in_flow(body, guard, cx),
                }
            }
            KindProj::Replacement { body } => body.poll_replacement(cx),
            KindProj::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::InFlow { body } => body.body.is_end_stream(),
            Kind::Replacement { body } => body.is_over(),
            Kind::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::InFlow { body } => body.body.size_hint(),
            Kind::Replacement { body } => body.hint(),
            Kind::Empty => SizeHint::with_exact(0),
        }
    }
}

/// Polls the body of the inner service and ends its flow after the last frame.
#[inline]
fn poll_in_flow<B: Body, T: Ticket>(
    mut body: Pin<&mut B>,
    guard_slot: &mut Option<FlowGuard<T>>,
    cx: &mut Context<'_>,
) -> Polled<B> {
    let remaining = guard_slot.as_mut().and_then(FlowGuard::begin_poll);
    let polled = body.as_mut().poll_frame(cx);
    let (remaining, last) = match &polled {
        Poll::Pending => (remaining, false),
        Poll::Ready(None) => (remaining, true),
        Poll::Ready(Some(Err(_))) => {
            if let Some(guard) = guard_slot {
                guard.fail();
            }
            *guard_slot = None;
            return polled;
        }
        Poll::Ready(Some(Ok(frame))) => {
            let mut sent = 0;
            let mut trailers = frame.is_trailers();
            if let Some(guard) = guard_slot {
                if let Some(trailers) = frame.trailers_ref() {
                    guard.classify_trailers(trailers);
                } else if let Some(data) = frame.data_ref() {
                    sent = data.remaining();
                    trailers = guard.read_data(data);
                }
            }
            let sent = u64::try_from(sent).unwrap_or(u64::MAX);
            (
                remaining.map(|remaining| remaining.saturating_sub(sent)),
                trailers || body.is_end_stream(),
            )
        }
    };
    if let Some(guard) = guard_slot {
        if last || remaining == Some(0) {
            guard.classify_body();
        }
        if last {
            guard.finish();
            *guard_slot = None;
        } else {
            guard.sending(remaining);
        }
    }
    polled
}

impl<B, C, T: Ticket> Default for ResponseBody<B, C, T> {
    fn default() -> Self {
        Self { kind: Kind::Empty }
    }
}

impl<B, C, T: Ticket> fmt::Debug for ResponseBody<B, C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            Kind::InFlow { body } if body.guard.is_some() => "ResponseBody(in flow)",
            Kind::Inner { .. } | Kind::InFlow { .. } => "ResponseBody(inner)",
            Kind::Replacement { .. } => "ResponseBody(rejected)",
            Kind::Empty => "ResponseBody(empty)",
        })
    }
}
