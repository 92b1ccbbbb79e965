use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};

type Read<B> = Result<Frame<<B as Body>::Data>, <B as Body>::Error>;

/// A request body of which [`CaptureBody`](crate::layer::CaptureBody) has read the beginning: what
/// was read, trailers and errors included, comes again, then the rest.
///
/// ```
/// use axum::body::Body;
/// use tower_aperture::layer::ReplayBody;
///
/// fn is_body<B: http_body::Body>(_: &B) {}
/// is_body(&ReplayBody::new(Body::from("hello")));
/// ```
pub struct ReplayBody<B: Body> {
    read: VecDeque<Read<B>>,
    /// Nothing follows what was read.
    over: bool,
    rest: B,
}

impl<B: Body> ReplayBody<B> {
    /// A body of which nothing was read.
    pub const fn new(rest: B) -> Self {
        Self {
            read: VecDeque::new(),
            over: false,
            rest,
        }
    }
}

impl<B: Body + Unpin> ReplayBody<B> {
    /// Reads a frame ahead; `None` when there is nothing more to read.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Option<&Read<B>>> {
        if self.over || self.rest.is_end_stream() {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.rest).poll_frame(cx) else {
            return Poll::Pending;
        };
        match frame {
            None => {
                self.over = true;
                Poll::Ready(None)
            }
            Some(frame) => {
                self.over = frame.is_err();
                self.read.push_back(frame);
                Poll::Ready(self.read.back())
            }
        }
    }
}

impl<B: Body + Unpin> Body for ReplayBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.read.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None if self.over => Poll::Ready(None),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && (self.over || self.rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let frames = self.read.iter().flatten();
        let read: usize = frames.filter_map(Frame::data_ref).map(Buf::remaining).sum();
        let read = u64::try_from(read).unwrap_or(u64::MAX);
        let rest = if self.over {
            SizeHint::with_exact(0)
        } else {
            self.rest.size_hint()
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}

/// Neither the data nor the errors are pinned.
impl<B: Body + Unpin> Unpin for ReplayBody<B> {}

impl<B: Body> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody")
            .field("read", &self.read.len())
            .finish_non_exhaustive()
    }
}
