//! The body of a request of which the beginning was read ahead.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

/// Frames that one poll reads. A body with more of them at hand, such as many empty ones, lets
/// other tasks run in between.
const FRAMES_PER_POLL: u32 = 64;

/// A request body of which [`CaptureBody`](crate::layer::CaptureBody) has read the beginning. It
/// returns the data that was read in one frame, then trailers or an error where they were read
/// too, then the rest.
///
/// ```
/// use axum::body::Body;
/// use tower_aperture::layer::ReplayBody;
///
/// fn is_body<B: http_body::Body>(_: &B) {}
/// is_body(&ReplayBody::new(Body::from("hello")));
/// ```
pub struct ReplayBody<B: Body> {
    /// The data that was read, but for that of `next`.
    data: Bytes,
    /// The frame that ended the reading: data beyond the cap, trailers, or an error.
    next: Option<Result<Frame<B::Data>, B::Error>>,
    /// Nothing follows what was read.
    over: bool,
    rest: B,
}

impl<B: Body> ReplayBody<B> {
    /// Returns a body of which nothing was read.
    pub const fn new(rest: B) -> Self {
        Self {
            data: Bytes::new(),
            next: None,
            over: false,
            rest,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> ReplayBody<B> {
    /// Reads ahead until the body ends or has more data than the recording has room for. Polled no
    /// more once it is ready.
    pub(super) fn poll_record(
        &mut self,
        recording: &mut Recording,
        cx: &mut Context<'_>,
    ) -> Poll<Recorded> {
        for _ in 0..FRAMES_PER_POLL {
            if self.rest.is_end_stream() {
                self.over = true;
                return Poll::Ready(self.recorded(recording, false));
            }
            let frame = match ready!(Pin::new(&mut self.rest).poll_frame(cx)) {
                None => {
                    self.over = true;
                    return Poll::Ready(self.recorded(recording, false));
                }
                Some(Err(error)) => {
                    self.over = true;
                    self.next = Some(Err(error));
                    return Poll::Ready(self.recorded(recording, false));
                }
                Some(Ok(frame)) => frame,
            };
            match frame.into_data() {
                Ok(data) => {
                    if let Some(beyond) = recording.append(data) {
                        self.next = Some(Ok(Frame::data(beyond)));
                        return Poll::Ready(self.recorded(recording, true));
                    }
                }
                // Trailers are the end of the data.
                Err(trailers) => {
                    self.next = Some(Ok(trailers));
                    return Poll::Ready(self.recorded(recording, false));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn recorded(&mut self, recording: &mut Recording, is_partial: bool) -> Recorded {
        self.data = recording.take();
        Recorded {
            data: self.data.clone(),
            is_partial,
        }
    }
}

/// The data that was read ahead, which a request's [`ReplayBody`] shares.
pub(super) struct Recorded {
    pub(super) data: Bytes,
    /// The body has more.
    pub(super) is_partial: bool,
}

/// Data that is being read ahead: one piece, however many frames it came in.
pub(super) struct Recording {
    /// The first frame, which is not copied unless another one follows.
    first: Bytes,
    /// All frames, from the second one on.
    joined: Vec<u8>,
    max: usize,
}

impl Recording {
    pub(super) const fn new(max: usize) -> Self {
        Self {
            first: Bytes::new(),
            joined: Vec::new(),
            max,
        }
    }

    fn len(&self) -> usize {
        // One of them is empty.
        self.first.len() + self.joined.len()
    }

    /// Adds data as far as there is room; returns what is beyond it.
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
            // Doubled, as a vector does it, but not beyond what may be read.
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
            None if self.over => Poll::Ready(None),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        let replayed = self.data.is_empty() && self.next.is_none();
        replayed && (self.over || self.rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let next = self.next.as_ref().and_then(|frame| frame.as_ref().ok());
        let next = next.and_then(Frame::data_ref).map_or(0, Buf::remaining);
        let read = u64::try_from(self.data.len() + next).unwrap_or(u64::MAX);
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
            .field("read", &self.data.len())
            .finish_non_exhaustive()
    }
}
