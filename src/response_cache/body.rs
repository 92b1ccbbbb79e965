//! The body of a response that passes the response cache: stored, or of the inner service.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::body_recorder::BodyRecorder;

pin_project! {
    /// The body of every response from a [`ResponseCache`](super::ResponseCache): the stored body,
    /// or the body `B` of the inner service, which may be copied while it streams to the client.
    ///
    /// Frames, trailers, the size hint and the end of the stream of `B` pass through unchanged.
    ///
    /// ```
    /// use tower_aperture::layer::RejectBody;
    /// use tower_aperture::response_cache::CachedBody;
    ///
    /// /// A body that a reject hook may return.
    /// fn fits<C: RejectBody<CachedBody<axum::body::Body>>>(_: C) {}
    /// fits(axum::body::Body::empty());
    /// ```
    pub struct CachedBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Stored { data: Bytes },
        Inner { #[pin] body: B },
        /// A body that is copied or followed to its end.
        Recorded { #[pin] body: B, recorder: Box<BodyRecorder> },
    }
}

impl<B> CachedBody<B> {
    pub(super) const fn stored(data: Bytes) -> Self {
        Self {
            kind: Kind::Stored { data },
        }
    }

    pub(super) fn inner(body: B, recorder: Option<Box<BodyRecorder>>) -> Self {
        Self {
            kind: match recorder {
                None => Kind::Inner { body },
                Some(recorder) => Kind::Recorded { body, recorder },
            },
        }
    }
}

/// The result of polling a body for a frame.
type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

impl<B> Body for CachedBody<B>
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B> {
        match self.project().kind.project() {
            KindProj::Stored { data } => {
                let data = std::mem::take(data);
                let frame = (!data.is_empty()).then(|| Ok(Frame::data(B::Data::from(data))));
                Poll::Ready(frame)
            }
            KindProj::Inner { body } => body.poll_frame(cx),
            KindProj::Recorded { body, recorder } => poll_recorded(body, recorder, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Stored { data } => data.is_empty(),
            Kind::Inner { body } | Kind::Recorded { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Stored { data } => SizeHint::with_exact(data.len() as u64),
            Kind::Inner { body } | Kind::Recorded { body, .. } => body.size_hint(),
        }
    }
}

/// Polls a body and lets `recorder` copy its data.
fn poll_recorded<B>(
    mut body: Pin<&mut B>,
    recorder: &mut BodyRecorder,
    cx: &mut Context<'_>,
) -> Polled<B>
where
    B: Body,
    B::Data: From<Bytes>,
{
    recorder.enter();
    let polled = body.as_mut().poll_frame(cx);
    recorder.leave();
    let frame = match polled {
        Poll::Ready(Some(Ok(frame))) => frame,
        Poll::Ready(Some(Err(_))) => {
            recorder.discard();
            return polled;
        }
        Poll::Ready(None) => {
            recorder.finish();
            return polled;
        }
        Poll::Pending => return polled,
    };
    Poll::Ready(Some(Ok(match frame.into_data() {
        Ok(mut data) => {
            if let Some(copy) = recorder.copy(data.remaining()) {
                data = copy_data(data, copy);
            }
            if body.is_end_stream() {
                recorder.finish();
            }
            Frame::data(data)
        }
        Err(trailers) => {
            // A stored response cannot hold trailers.
            recorder.discard();
            trailers
        }
    })))
}

/// Appends `data`, which is on its way to the client, to `copy`.
fn copy_data<D: Buf + From<Bytes>>(mut data: D, copy: &mut Vec<u8>) -> D {
    let data = data.copy_to_bytes(data.remaining());
    copy.extend_from_slice(&data);
    D::from(data)
}

impl<B> fmt::Debug for CachedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Stored { .. } => "CachedBody(stored)",
            Kind::Inner { .. } => "CachedBody(inner)",
            Kind::Recorded { .. } => "CachedBody(recorded)",
        })
    }
}
