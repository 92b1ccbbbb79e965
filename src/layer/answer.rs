//! What the answer to a rejected request may have as its body.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// No body at all, in front of services with any body.
///
/// ```
/// use tower_aperture::layer::NoBody;
///
/// let response = http::Response::new(NoBody);
/// let mine: http::Response<String> = response.map(|NoBody| String::new());
/// # let _ = mine;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoBody;

/// A body that may stand in for `B`: [`NoBody`], or one with the same data and an error that
/// converts to that of `B`.
///
/// It is implemented for all of these, and cannot be for others.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower_aperture::layer::{NoBody, RejectBody};
///
/// fn fits<C: RejectBody<axum::body::Body>>(_: C) {}
/// fits(NoBody);
/// fits(axum::body::Body::empty());
/// ```
pub trait RejectBody<B: Body>: Answer<B> {}

impl<B: Body, C: Answer<B>> RejectBody<B> for C {}

/// What a body is polled for.
pub(super) type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

/// What [`RejectBody`] can do. A trait of its own, not bounds on the error of a generic empty
/// body: those name the error type twice, and then the compiler refuses to spawn a future that
/// holds one with a boxed error.
pub trait Answer<B: Body> {
    fn poll_answer(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B>;

    fn is_over(&self) -> bool;

    fn hint(&self) -> SizeHint;

    /// An answer from the cache, where such a body may be one.
    fn stored(body: Bytes) -> Option<Self>
    where
        Self: Sized,
    {
        drop(body);
        None
    }

    /// Copies what is on its way to the client, where bodies may be stored.
    fn copied(data: B::Data, copy: &mut Vec<u8>) -> B::Data
    where
        Self: Sized,
    {
        let _ = copy;
        data
    }
}

impl<B: Body> Answer<B> for NoBody {
    fn poll_answer(self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled<B> {
        Poll::Ready(None)
    }

    fn is_over(&self) -> bool {
        true
    }

    fn hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

impl<B, C> Answer<B> for C
where
    B: Body,
    C: Body<Data = B::Data>,
    C::Error: Into<B::Error>,
{
    fn poll_answer(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B> {
        let frame = ready!(self.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_over(&self) -> bool {
        self.is_end_stream()
    }

    fn hint(&self) -> SizeHint {
        self.size_hint()
    }
}
