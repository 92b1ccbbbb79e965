//! [`AgentReject`]: responses to rejections with the body that the decision has.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body::{Body, Frame, SizeHint};

use crate::flow::Rejection;
use crate::layer::grpc;
use crate::layer::head::RequestHead;
use crate::layer::reject::{DefaultReject, OnReject};
use crate::layer::replacement_body::{NoBody, Polled, ReplacementBody};

/// A reject hook that responds like [`DefaultReject`], with the body of the rejection if it has
/// one. The body is `text/plain` unless a header of the rejection sets another type. gRPC requests
/// get no body.
///
/// It is the default hook of layers that check [with attributes](crate::ApertureLayer::http), for
/// services whose body data can be made from [`Bytes`].
///
/// ```
/// use axum::body::Body;
/// use tower_aperture::layer::{AgentReject, OnReject, RequestHead};
/// use tower_aperture::{Denial, HttpExtras, RejectReason, Rejection};
///
/// let extras = HttpExtras::new([("x-policy", "per-user")], "not today");
/// let rejection =
///     Rejection::new("ingress", Denial::new(RejectReason::RateLimited)).with_extras(extras);
/// let request = http::Request::new(());
/// let response =
///     OnReject::<Body>::on_reject(&AgentReject, &rejection, RequestHead::new(&request));
/// assert_eq!(response.status(), 429);
/// assert_eq!(response.headers()["x-policy"], "per-user");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct AgentReject;

impl<B> OnReject<B> for AgentReject
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Body = AgentRejectBody<B::Data>;

    fn on_reject(&self, rejection: &Rejection, head: RequestHead<'_>) -> Response<Self::Body> {
        let mut response = OnReject::<B>::on_reject(&DefaultReject::new(), rejection, head);
        let body = match rejection.body() {
            Some(body) if grpc::content_type(head).is_none() => {
                let text = HeaderValue::from_static("text/plain; charset=utf-8");
                response.headers_mut().entry(CONTENT_TYPE).or_insert(text);
                Some(B::Data::from(body.clone()))
            }
            _ => None,
        };
        response.map(|NoBody| AgentRejectBody(body))
    }
}

/// The body of [`AgentReject`]: one frame of data, or none.
///
/// ```
/// use tower_aperture::layer::{AgentRejectBody, RejectBody};
///
/// fn fits(_: impl RejectBody<axum::body::Body>) {}
/// fits(AgentRejectBody::<bytes::Bytes>::default());
/// ```
#[derive(Debug)]
pub struct AgentRejectBody<D>(Option<D>);

impl<D> Default for AgentRejectBody<D> {
    fn default() -> Self {
        Self(None)
    }
}

/// Sound because the data is never pinned.
impl<D> Unpin for AgentRejectBody<D> {}

impl<B: Body> ReplacementBody<B> for AgentRejectBody<B::Data> {
    fn poll_replacement(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled<B> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_over(&self) -> bool {
        self.0.is_none()
    }

    fn hint(&self) -> SizeHint {
        let remaining = self.0.as_ref().map_or(0, Buf::remaining);
        SizeHint::with_exact(u64::try_from(remaining).unwrap_or(u64::MAX))
    }
}
