use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::answer::{Polled, RejectBody};
use super::guard::Guard;
use crate::flow::Ticket;

pin_project! {
    /// The body of every response behind the layer: the inner service's own, that of the
    /// [reject hook](crate::layer::OnReject), or nothing.
    ///
    /// It holds the flow of an accepted request and ends it when the body does, see the
    /// [module documentation](crate::layer). Frames, trailers, size hint and the end of the
    /// stream pass through untouched. The default is the empty body.
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
        Inner { #[pin] body: B, guard: Option<Guard<T>> },
        Own { #[pin] body: C },
        Empty,
    }
}

impl<B, C, T: Ticket> ResponseBody<B, C, T> {
    /// A body nobody watches.
    pub(crate) fn passed(body: B) -> Self {
        Self::guarded(body, None)
    }

    /// The body of an accepted flow, which `guard` ends with it.
    #[inline(always)]
    pub(crate) fn guarded(body: B, guard: Option<Guard<T>>) -> Self {
        Self {
            kind: Kind::Inner { body, guard },
        }
    }

    /// The body of the reject hook.
    pub(crate) fn own(body: C) -> Self {
        Self {
            kind: Kind::Own { body },
        }
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
            KindProj::Inner { body, guard: None } => body.poll_frame(cx),
            KindProj::Inner { body, guard } => poll_guarded(body, guard, cx),
            KindProj::Own { body } => body.poll_answer(cx),
            KindProj::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body, .. } => body.is_end_stream(),
            Kind::Own { body } => body.is_over(),
            Kind::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body, .. } => body.size_hint(),
            Kind::Own { body } => body.hint(),
            Kind::Empty => SizeHint::with_exact(0),
        }
    }
}

/// Polls a body and ends its flow when that was the last of it.
fn poll_guarded<B: Body, T: Ticket>(
    mut body: Pin<&mut B>,
    slot: &mut Option<Guard<T>>,
    cx: &mut Context<'_>,
) -> Polled<B> {
    let left = slot.as_mut().and_then(Guard::enter);
    let polled = body.as_mut().poll_frame(cx);
    let (left, last) = match &polled {
        Poll::Pending => (left, false),
        Poll::Ready(None) => (left, true),
        Poll::Ready(Some(Err(_))) => {
            if let Some(guard) = slot {
                guard.fail();
            }
            *slot = None;
            return polled;
        }
        Poll::Ready(Some(Ok(frame))) => {
            if let (Some(trailers), Some(guard)) = (frame.trailers_ref(), slot.as_mut()) {
                guard.judge_trailers(trailers);
            }
            let sent = frame.data_ref().map_or(0, Buf::remaining);
            let sent = u64::try_from(sent).unwrap_or(u64::MAX);
            (
                left.map(|left| left.saturating_sub(sent)),
                frame.is_trailers() || body.is_end_stream(),
            )
        }
    };
    if let Some(guard) = slot {
        if last {
            guard.finish();
            *slot = None;
        } else {
            guard.sending(left);
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
        f.write_str(match self.kind {
            Kind::Inner { guard: Some(_), .. } => "ResponseBody(in flow)",
            Kind::Inner { guard: None, .. } => "ResponseBody(inner)",
            Kind::Own { .. } => "ResponseBody(rejected)",
            Kind::Empty => "ResponseBody(empty)",
        })
    }
}
