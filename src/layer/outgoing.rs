//! The layer around clients, which returns a rejection as an error.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::body::ResponseBody;
use super::client_error::ClientError;
use super::future::ResponseFuture;
use super::head::RequestHead;
use super::layer::ApertureLayer;
use super::reject::OnReject;
use super::replacement_body::{NoBody, Polled, ReplacementBody};
use super::service::Aperture;
use crate::flow::{Decider, Rejection};

/// Puts the calls of client services under flow control. A rejection is the error
/// [`ClientError::Rejected`], instead of a response that no server sent.
///
/// Returned by [`ApertureLayer::into_client`]; set all options on the [`ApertureLayer`].
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use hyper_util::client::legacy::{Client, connect::HttpConnector};
/// use hyper_util::rt::TokioExecutor;
/// use tower::Layer;
/// use tower_aperture::layer::{ApertureClientLayer, ApertureClientService};
/// use tower_aperture::{ApertureClient, ApertureLayer};
///
/// let layer: ApertureClientLayer<ApertureClient> = ApertureLayer::new(client, "geocoder")
///     .check_timeout(Duration::from_secs(2))
///     .into_client();
/// let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// let geocoder: ApertureClientService<Client<HttpConnector, Full<Bytes>>, ApertureClient> = layer.layer(http);
/// # let _ = geocoder;
/// ```
#[derive(Clone)]
pub struct ApertureClientLayer<D> {
    layer: ApertureLayer<D, RejectAsError>,
}

impl<D> ApertureClientLayer<D> {
    pub(super) fn new<R>(layer: ApertureLayer<D, R>) -> Self {
        Self {
            layer: layer.reject_with(RejectAsError),
        }
    }
}

impl<S, D: Clone> Layer<S> for ApertureClientLayer<D> {
    type Service = ApertureClientService<S, D>;

    fn layer(&self, inner: S) -> ApertureClientService<S, D> {
        ApertureClientService {
            service: self.layer.layer(inner),
        }
    }
}

impl<D> fmt::Debug for ApertureClientLayer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApertureClientLayer")
            .field(&self.layer)
            .finish()
    }
}

/// A client service under flow control, returned by [`ApertureClientLayer`]; see there for an
/// example.
///
/// Generated tonic clients can use it around a tonic `Channel`. They convert errors of other types
/// to a status with code Unknown and the [`ClientError`] as its source. With [`Aperture`] instead,
/// they get a status with the right code. (A [`Rejection`] found in the source converts to that
/// status.)
pub struct ApertureClientService<S, D> {
    service: Aperture<S, D, RejectAsError>,
}

impl<S, D> ApertureClientService<S, D> {
    /// Returns a reference to the inner service.
    pub const fn get_ref(&self) -> &S {
        self.service.get_ref()
    }

    /// Returns a mutable reference to the inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        self.service.get_mut()
    }

    /// Returns the inner service, without flow control.
    pub fn into_inner(self) -> S {
        self.service.into_inner()
    }
}

impl<S: Clone, D: Clone> Clone for ApertureClientService<S, D> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
        }
    }
}

impl<S: fmt::Debug, D> fmt::Debug for ApertureClientService<S, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApertureClientService")
            .field("inner", self.get_ref())
            .finish_non_exhaustive()
    }
}

impl<S, D, B, RB> Service<Request<B>> for ApertureClientService<S, D>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    D: Decider + Clone,
    RB: Body,
{
    type Response = Response<ResponseBody<RB, NoBody, D::Ticket>>;
    type Error = ClientError<S::Error>;
    type Future = ApertureClientFuture<S, D, B>;

    /// Ready when the inner service is ready.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx).map_err(ClientError::Inner)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ApertureClientFuture {
            future: self.service.call(request),
        }
    }
}

pin_project! {
    /// The future of [`ApertureClientService`]. A drop cancels the flow, as for a [`ResponseFuture`].
    ///
    /// ```
    /// use tower_aperture::layer::ApertureClientFuture;
    ///
    /// type MyFuture<S, D> = ApertureClientFuture<S, D, String>;
    /// ```
    pub struct ApertureClientFuture<S, D, B>
    where
        S: Service<Request<B>>,
        D: Decider,
    {
        #[pin]
        future: ResponseFuture<S, D, RejectAsError, B, RejectionBody>,
    }
}

impl<S, D, B, RB> Future for ApertureClientFuture<S, D, B>
where
    S: Service<Request<B>, Response = Response<RB>>,
    D: Decider,
    RB: Body,
{
    type Output = Result<Response<ResponseBody<RB, NoBody, D::Ticket>>, ClientError<S::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.project().future.poll(cx)).map_err(ClientError::Inner)?;
        let (head, body) = response.into_parts();
        Poll::Ready(match body.into_replacement() {
            Ok(RejectionBody(rejection)) => Err(ClientError::Rejected(rejection)),
            Err(body) => Ok(Response::from_parts(head, body)),
        })
    }
}

impl<S, D, B> fmt::Debug for ApertureClientFuture<S, D, B>
where
    S: Service<Request<B>>,
    D: Decider,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApertureClientFuture")
            .field(&self.future)
            .finish()
    }
}

/// Passes rejections to [`ApertureClientFuture`] as bodies that are never polled.
#[derive(Clone, Copy, Debug)]
struct RejectAsError;

struct RejectionBody(Rejection);

impl<B: Body> OnReject<B> for RejectAsError {
    type Body = RejectionBody;

    fn on_reject(&self, rejection: &Rejection, _: RequestHead<'_>) -> Response<RejectionBody> {
        let mut response = Response::new(RejectionBody(rejection.clone()));
        // For telemetry, which reports the status of rejected flows.
        *response.status_mut() = rejection.status();
        response
    }
}

impl<B: Body> ReplacementBody<B> for RejectionBody {
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
