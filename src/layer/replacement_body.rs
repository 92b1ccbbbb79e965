//! The bodies that may replace a body of the inner service in a response that the layer makes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};

/// An empty body, which replaces bodies of every type.
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

/// A body that may replace `B`: [`NoBody`], or a body with the same data type and an error that
/// converts to the error of `B`.
///
/// The trait is sealed: it is implemented for these types, and cannot be implemented for others.
///
/// ```
/// /// use http_body_util::Full;
/// use tower_aperture::layer::{NoBody, RejectBody};
///
/// fn fits<C: RejectBody<axum::body::Body>>(_: C) {}
/// fits(NoBody);
/// fits(axum::body::Body::empty());
/// ```
pub trait RejectBody<B: Body>: ReplacementBody<B> {}

impl<B: Body, C: ReplacementBody<B>> RejectBody<B> for C {}

/// The result of polling a body of type `B` for a frame.
pub(super) type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

/// The methods of [`RejectBody`].
///
/// A separate trait instead of bounds on the error of a generic empty body: such bounds name the
/// error type twice, and the compiler then refuses to spawn a future that holds a body with a boxed
/// error.
pub trait ReplacementBody<B: Body> {
    fn poll_replacement(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B>;

    fn is_over(&self) -> bool;

    fn hint(&self) -> SizeHint;
}

impl<B: Body> ReplacementBody<B> for NoBody {
    fn poll_replacement(self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled<B> {
        Poll::Ready(None)
    }

    fn is_over(&self) -> bool {
        true
    }

    fn hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

impl<B, C> ReplacementBody<B> for C
where
    B: Body,
    C: Body<Data = B::Data>,
    C::Error: Into<B::Error>,
{
    fn poll_replacement(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B> {
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
