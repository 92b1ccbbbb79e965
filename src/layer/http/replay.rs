//! [`ReplayBody`]: a request body whose beginning was read ahead and is replayed.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

/// The most frames that one poll reads. After that many available frames, such as empty ones, the
/// task yields to others.
const FRAMES_PER_POLL: u32 = 64;

/// A request body whose beginning was read by [`CaptureBody`](crate::layer::CaptureBody). It
/// returns the data that was read as one frame, then trailers or an error if they were read too,
/// then the rest of the body.
///
/// ```
/// use axum::body::Body;
/// use tower_aperture::layer::ReplayBody;
///
/// fn is_body<B: http_body::Body>(_: &B) {}
/// is_body(&ReplayBody::new(Body::from("hello")));
/// ```
pub struct ReplayBody<B: Body> {
    /// The data that was read, without that of `next`.
    data: Bytes,
    /// The frame that ended the reading: data beyond the limit, trailers, or an error.
    next: Option<Result<Frame<B::Data>, B::Error>>,
    /// The body was read to its end.
    ended: bool,
    rest: B,
}

impl<B: Body> ReplayBody<B> {
    /// Returns a body without data read ahead.
    pub const fn new(rest: B) -> Self {
        Self {
            data: Bytes::new(),
            next: None,
            ended: false,
            rest,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> ReplayBody<B> {
    /// Reads ahead until the body ends or has more data than the buffer can hold. Must not be
    /// polled again after it is ready.
    pub(super) fn poll_read_ahead(
        &mut self,
        buffer: &mut ReadAheadBuffer,
        cx: &mut Context<'_>,
    ) -> Poll<ReadAhead> {
        for _ in 0..FRAMES_PER_POLL {
            if self.rest.is_end_stream() {
                self.ended = true;
                return Poll::Ready(self.finish_reading(buffer, false));
            }
            let frame = match ready!(Pin::new(&mut self.rest).poll_frame(cx)) {
                None => {
                    self.ended = true;
                    return Poll::Ready(self.finish_reading(buffer, false));
                }
                Some(Err(error)) => {
                    self.ended = true;
                    self.next = Some(Err(error));
                    return Poll::Ready(self.finish_reading(buffer, false));
                }
                Some(Ok(frame)) => frame,
            };
            match frame.into_data() {
                Ok(data) => {
                    if let Some(beyond) = buffer.append(data) {
                        self.next = Some(Ok(Frame::data(beyond)));
                        return Poll::Ready(self.finish_reading(buffer, true));
                    }
                }
                // Trailers follow all data.
                Err(trailers) => {
                    self.next = Some(Ok(trailers));
                    return Poll::Ready(self.finish_reading(buffer, false));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn finish_reading(&mut self, buffer: &mut ReadAheadBuffer, is_partial: bool) -> ReadAhead {
        self.data = buffer.take();
        ReadAhead {
            data: self.data.clone(),
            is_partial,
        }
    }
}

/// The data that was read ahead. It shares its memory with the request's [`ReplayBody`].
pub(super) struct ReadAhead {
    pub(super) data: Bytes,
    /// The body has more data.
    pub(super) is_partial: bool,
}

/// Collects the data that is read ahead into one piece.
pub(super) struct ReadAheadBuffer {
    /// The data of the first frame, which is only copied if another frame follows.
    first: Bytes,
    /// The data of all frames, once there are two.
    joined: Vec<u8>,
    max: usize,
}

impl ReadAheadBuffer {
    pub(super) const fn new(max: usize) -> Self {
        Self {
            first: Bytes::new(),
            joined: Vec::new(),
            max,
        }
    }

    fn len(&self) -> usize {
        // At least one of the two is empty.
        self.first.len() + self.joined.len()
    }

    /// Appends data up to the limit, and returns the data beyond it.
    fn append(&mut self, mut data: Bytes) -> Option<Bytes> {
        let room = self.max - self.len();
        let beyond = (data.len() > room).then(|| data.split_off(room));
        if data.is_empty() {
            return beyond;
        }
        if self.len() == 0 {
            self.first = data;
            return beyond;
        }
        let len = self.len() + data.len();
        if len > self.joined.capacity() {
            // Doubles the capacity, as a vector does, but not beyond the limit.
            let capacity = len.max(2 * self.joined.capacity()).min(self.max);
            self.joined.reserve_exact(capacity - self.joined.len());
        }
        self.joined.extend_from_slice(&mem::take(&mut self.first));
        self.joined.extend_from_slice(&data);
        beyond
    }

    fn take(&mut self) -> Bytes {
        if self.joined.is_empty() {
            mem::take(&mut self.first)
        } else {
            Bytes::from(mem::take(&mut self.joined))
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ReplayBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if !self.data.is_empty() {
            let data = mem::take(&mut self.data);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match self.next.take() {
            Some(frame) => Poll::Ready(Some(frame)),
            None if self.ended => Poll::Ready(None),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        let replayed = self.data.is_empty() && self.next.is_none();
        replayed && (self.ended || self.rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let next = self.next.as_ref().and_then(|frame| frame.as_ref().ok());
        let next = next.and_then(Frame::data_ref).map_or(0, Buf::remaining);
        let read = u64::try_from(self.data.len() + next).unwrap_or(u64::MAX);
        let rest = if self.ended {
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

/// Sound because neither the data nor the errors are pinned.
impl<B: Body + Unpin> Unpin for ReplayBody<B> {}

impl<B: Body> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody")
            .field("read", &self.data.len())
            .finish_non_exhaustive()
    }
}
