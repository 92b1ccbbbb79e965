//! The body of every response behind the layer.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::answer::{NoBody, Polled, RejectBody};
use super::cache::BodyRecorder;
use super::guard::Guard;
use crate::flow::Ticket;

pin_project! {
    /// The body of every response behind the layer: the inner service's own, that of the
    /// [reject hook](crate::layer::OnReject), one from the cache, or nothing.
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

    impl<B, C, T> PinnedDrop for ResponseBody<B, C, T>
    where
        T: Ticket,
    {
        fn drop(this: Pin<&mut Self>) {
            match this.project().kind.project() {
                KindProj::Inner { body, guard: Some(guard), is_over }
                | KindProj::Recorded { body, guard: Some(guard), is_over, .. } => {
                    guard.body_dropped(|| is_over(&body));
                }
                KindProj::Own { body, guard: Some(guard), is_over } => {
                    guard.body_dropped(|| is_over(&body));
                }
                _ => {}
            }
        }
    }
}

pin_project! {
    // With `is_over`, a drop can ask the body without bounds on the type.
    #[project = KindProj]
    enum Kind<B, C, T>
    where
        T: Ticket,
    {
        Inner { #[pin] body: B, guard: Option<Guard<T>>, is_over: fn(&B) -> bool },
        /// To be stored when it is over.
        Recorded {
            #[pin]
            body: B,
            guard: Option<Guard<T>>,
            is_over: fn(&B) -> bool,
            recorder: Box<BodyRecorder>,
        },
        /// In place of the inner service's.
        Own { #[pin] body: C, guard: Option<Guard<T>>, is_over: fn(&C) -> bool },
        Empty,
    }
}

impl<B, C, T: Ticket> ResponseBody<B, C, T> {
    /// A body of no flow.
    pub(crate) fn passed(body: B) -> Self
    where
        B: Body,
    {
        Self::guarded(body, None)
    }

    /// The body of an accepted flow, which `guard` ends with it.
    #[inline(always)]
    pub(crate) fn guarded(body: B, guard: Option<Guard<T>>) -> Self
    where
        B: Body,
    {
        Self {
            kind: Kind::Inner {
                body,
                guard,
                is_over: B::is_end_stream,
            },
        }
    }

    /// The body of an accepted flow, of which `recorder` takes a copy.
    pub(crate) fn recorded(body: B, guard: Option<Guard<T>>, recorder: Box<BodyRecorder>) -> Self
    where
        B: Body,
    {
        Self {
            kind: Kind::Recorded {
                body,
                guard,
                is_over: B::is_end_stream,
                recorder,
            },
        }
    }

    /// The body of the reject hook, or one from the cache, which is an accepted flow's.
    pub(crate) fn own(body: C, guard: Option<Guard<T>>) -> Self
    where
        B: Body,
        C: RejectBody<B>,
    {
        Self {
            kind: Kind::Own {
                body,
                guard,
                is_over: C::is_over,
            },
        }
    }

    /// The body of the reject hook, or else the same without one.
    pub(super) fn into_own(mut self) -> Result<C, ResponseBody<B, NoBody, T>> {
        let kind = match mem::replace(&mut self.kind, Kind::Empty) {
            Kind::Own { body, .. } => return Ok(body),
            Kind::Inner {
                body,
                guard,
                is_over,
            } => Kind::Inner {
                body,
                guard,
                is_over,
            },
            Kind::Recorded {
                body,
                guard,
                is_over,
                recorder,
            } => Kind::Recorded {
                body,
                guard,
                is_over,
                recorder,
            },
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
            KindProj::Inner {
                body, guard: None, ..
            } => body.poll_frame(cx),
            KindProj::Inner { body, guard, .. } => poll_inner(body, guard, cx),
            KindProj::Recorded {
                body,
                guard,
                recorder,
                ..
            } => poll_recorded::<B, C, T>(body, guard, recorder, cx),
            KindProj::Own {
                body, guard: None, ..
            } => body.poll_answer(cx),
            KindProj::Own { body, guard, .. } => {
                poll_guarded::<B, C, T>(body, guard, cx, C::poll_answer, C::is_over)
            }
            KindProj::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body, .. } | Kind::Recorded { body, .. } => body.is_end_stream(),
            Kind::Own { body, .. } => body.is_over(),
            Kind::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body, .. } | Kind::Recorded { body, .. } => body.size_hint(),
            Kind::Own { body, .. } => body.hint(),
            Kind::Empty => SizeHint::with_exact(0),
        }
    }
}

#[inline]
fn poll_inner<B: Body, T: Ticket>(
    body: Pin<&mut B>,
    slot: &mut Option<Guard<T>>,
    cx: &mut Context<'_>,
) -> Polled<B> {
    poll_guarded::<B, B, T>(body, slot, cx, B::poll_frame, B::is_end_stream)
}

/// Polls the body of an accepted flow and hands out what it copied.
fn poll_recorded<B: Body, C: RejectBody<B>, T: Ticket>(
    mut body: Pin<&mut B>,
    slot: &mut Option<Guard<T>>,
    recorder: &mut BodyRecorder,
    cx: &mut Context<'_>,
) -> Polled<B> {
    recorder.enter();
    let polled = poll_inner(body.as_mut(), slot, cx);
    recorder.leave();
    match polled {
        Poll::Pending => Poll::Pending,
        Poll::Ready(None) => {
            recorder.finish();
            Poll::Ready(None)
        }
        Poll::Ready(Some(Err(error))) => {
            recorder.discard();
            Poll::Ready(Some(Err(error)))
        }
        Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(mut data) => {
                if let Some(copy) = recorder.copy(data.remaining()) {
                    data = C::copied(data, copy);
                }
                if body.is_end_stream() {
                    recorder.finish();
                }
                Frame::data(data)
            }
            Err(trailers) => {
                // There is no room for them in what is stored.
                recorder.discard();
                trailers
            }
        }))),
    }
}

/// Polls a body and ends its flow when that was the last of it.
#[inline]
fn poll_guarded<B: Body, X, T: Ticket>(
    mut body: Pin<&mut X>,
    slot: &mut Option<Guard<T>>,
    cx: &mut Context<'_>,
    poll: impl FnOnce(Pin<&mut X>, &mut Context<'_>) -> Polled<B>,
    is_over: impl FnOnce(&X) -> bool,
) -> Polled<B> {
    let left = slot.as_mut().and_then(Guard::enter);
    let polled = poll(body.as_mut(), cx);
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
            let mut sent = 0;
            let mut trailers = frame.is_trailers();
            if let Some(guard) = slot {
                if let Some(trailers) = frame.trailers_ref() {
                    guard.judge_trailers(trailers);
                } else if let Some(data) = frame.data_ref() {
                    sent = data.remaining();
                    trailers = guard.read_data(data);
                }
            }
            let sent = u64::try_from(sent).unwrap_or(u64::MAX);
            (
                left.map(|left| left.saturating_sub(sent)),
                trailers || is_over(&body),
            )
        }
    };
    if let Some(guard) = slot {
        if last || left == Some(0) {
            guard.judge_body();
        }
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
            Kind::Inner { guard: Some(_), .. } | Kind::Recorded { .. } => "ResponseBody(in flow)",
            Kind::Inner { guard: None, .. } => "ResponseBody(inner)",
            Kind::Own { guard: Some(_), .. } => "ResponseBody(from the cache)",
            Kind::Own { .. } => "ResponseBody(rejected)",
            Kind::Empty => "ResponseBody(empty)",
        })
    }
}
