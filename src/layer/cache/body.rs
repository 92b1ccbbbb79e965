//! The bodies of responses that the layer makes itself: stored ones, and those of the reject hook.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::flow::Rejection;
use crate::layer::head::RequestHead;
use crate::layer::reject::OnReject;
use crate::layer::replacement_body::{Polled, ReplacementBody};

/// The reject hook of a layer that also answers from the result cache; made by
/// [`result_cache`](crate::ApertureLayer::result_cache).
///
/// It requires services with response bodies whose data can be made from
/// [`Bytes`](bytes::Bytes), such as those of axum, tonic and hyper.
///
/// ```
/// use tower_aperture::{Aperture, ApertureClient};
/// use tower_aperture::layer::{Cached, DefaultReject};
///
/// /// The type of a service with a cache.
/// type MyService<S> = Aperture<S, ApertureClient, Cached<DefaultReject>>;
/// ```
pub struct Cached<R>(pub(super) Arc<R>);

/// Implemented by hand to put no bound on the hook.
impl<R> fmt::Debug for Cached<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cached").finish_non_exhaustive()
    }
}

impl<B, R> OnReject<B> for Cached<R>
where
    B: Body,
    B::Data: From<Bytes>,
    R: OnReject<B>,
{
    type Body = CachedBody<R::Body>;

    fn on_reject(&self, rejection: &Rejection, head: RequestHead<'_>) -> Response<Self::Body> {
        self.0.on_reject(rejection, head).map(CachedBody::rejected)
    }
}

pin_project! {
    /// The body of a response that does not come from the inner service: a stored body, or that of
    /// the reject hook.
    ///
    /// ```
    /// use tower_aperture::layer::{CachedBody, NoBody, RejectBody};
    ///
    /// fn fits<C: RejectBody<axum::body::Body>>() {}
    /// fits::<CachedBody<NoBody>>();
    /// ```
    pub struct CachedBody<C> {
        #[pin]
        kind: Kind<C>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<C> {
        Stored { body: Bytes },
        Rejected { #[pin] body: C },
    }
}

impl<C> CachedBody<C> {
    const fn rejected(body: C) -> Self {
        Self {
            kind: Kind::Rejected { body },
        }
    }
}

impl<B, C> ReplacementBody<B> for CachedBody<C>
where
    B: Body,
    B::Data: From<Bytes>,
    C: ReplacementBody<B>,
{
    fn poll_replacement(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B> {
        match self.project().kind.project() {
            KindProj::Stored { body } => {
                let body = std::mem::take(body);
                let data = (!body.is_empty()).then(|| Ok(Frame::data(B::Data::from(body))));
                Poll::Ready(data)
            }
            KindProj::Rejected { body } => body.poll_replacement(cx),
        }
    }

    fn is_over(&self) -> bool {
        match &self.kind {
            Kind::Stored { body } => body.is_empty(),
            Kind::Rejected { body } => body.is_over(),
        }
    }

    fn hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Stored { body } => SizeHint::with_exact(body.len() as u64),
            Kind::Rejected { body } => body.hint(),
        }
    }

    fn from_cache(body: Bytes) -> Option<Self> {
        Some(Self {
            kind: Kind::Stored { body },
        })
    }

    fn copy_data(mut data: B::Data, copy: &mut Vec<u8>) -> B::Data {
        let data = data.copy_to_bytes(data.remaining());
        copy.extend_from_slice(&data);
        B::Data::from(data)
    }
}

impl<C> fmt::Debug for CachedBody<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Stored { .. } => "CachedBody(stored)",
            Kind::Rejected { .. } => "CachedBody(rejected)",
        })
    }
}
