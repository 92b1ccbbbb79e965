//! The layer around clients that take a rejection for an error.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::answer::{Answer, NoBody, Polled};
use super::body::ResponseBody;
use super::client_error::ClientError;
use super::future::ResponseFuture;
use super::head::RequestHead;
use super::layer::ApertureLayer;
use super::reject::OnReject;
use super::service::Aperture;
use crate::flow::{Decider, Rejection};

/// Puts the calls of clients under flow control: a rejection is the error
/// [`ClientError::Rejected`], and not a response that nobody sent.
///
/// Made by [`ApertureLayer::into_client`], which has all the settings.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use hyper_util::client::legacy::{Client, connect::HttpConnector};
/// use hyper_util::rt::TokioExecutor;
/// use tower::Layer;
/// use tower_aperture::layer::{ApertureClientLayer, Outgoing};
/// use tower_aperture::{ApertureClient, ApertureLayer};
///
/// let layer: ApertureClientLayer<ApertureClient> = ApertureLayer::new(client, "geocoder")
///     .check_timeout(Duration::from_secs(2))
///     .into_client();
/// let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// let geocoder: Outgoing<Client<HttpConnector, Full<Bytes>>, ApertureClient> = layer.layer(http);
/// # let _ = geocoder;
/// ```
#[derive(Clone)]
pub struct ApertureClientLayer<D> {
    layer: ApertureLayer<D, HandOver>,
}

impl<D, R> ApertureLayer<D, R> {
    /// The same layer for clients that take a rejection for an error. Call it last.
    ///
    /// It ends flows as the layer does: when the body of a response is over. A reject hook is left
    /// out, because there is nothing to answer.
    #[must_use]
    pub fn into_client(self) -> ApertureClientLayer<D> {
        ApertureClientLayer {
            layer: self.reject_with(HandOver),
        }
    }
}

impl<S, D: Clone> Layer<S> for ApertureClientLayer<D> {
    type Service = Outgoing<S, D>;

    fn layer(&self, inner: S) -> Outgoing<S, D> {
        Outgoing {
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

/// The service that [`ApertureClientLayer`] makes; see there for an example.
///
/// Around a tonic `Channel` it serves generated clients too. These turn errors that they do not
/// know into a status of code Unknown that has the [`ClientError`] for its source; with
/// [`Aperture`] in its place they get a status with the right code. (A [`Rejection`] found in the
/// source converts to that status.)
pub struct Outgoing<S, D> {
    service: Aperture<S, D, HandOver>,
}

impl<S, D> Outgoing<S, D> {
    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        self.service.get_ref()
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        self.service.get_mut()
    }

    /// The inner service, out of flow control.
    pub fn into_inner(self) -> S {
        self.service.into_inner()
    }
}

impl<S: Clone, D: Clone> Clone for Outgoing<S, D> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
        }
    }
}

impl<S: fmt::Debug, D> fmt::Debug for Outgoing<S, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("inner", self.get_ref())
            .finish_non_exhaustive()
    }
}

impl<S, D, B, RB> Service<Request<B>> for Outgoing<S, D>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    D: Decider + Clone,
    RB: Body,
{
    type Response = Response<ResponseBody<RB, NoBody, D::Ticket>>;
    type Error = ClientError<S::Error>;
    type Future = OutgoingFuture<S, D, B>;

    /// Ready when the inner service is.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx).map_err(ClientError::Inner)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        OutgoingFuture {
            future: self.service.call(request),
        }
    }
}

pin_project! {
    /// The future of [`Outgoing`]; dropping it gives up the flow, as it does for a
    /// [`ResponseFuture`].
    ///
    /// ```
    /// use tower_aperture::layer::OutgoingFuture;
    ///
    /// type MyFuture<S, D> = OutgoingFuture<S, D, String>;
    /// ```
    pub struct OutgoingFuture<S, D, B>
    where
        S: Service<Request<B>>,
        D: Decider,
    {
        #[pin]
        future: ResponseFuture<S, D, HandOver, B, Refused>,
    }
}

impl<S, D, B, RB> Future for OutgoingFuture<S, D, B>
where
    S: Service<Request<B>, Response = Response<RB>>,
    D: Decider,
    RB: Body,
{
    type Output = Result<Response<ResponseBody<RB, NoBody, D::Ticket>>, ClientError<S::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.project().future.poll(cx)).map_err(ClientError::Inner)?;
        let (head, body) = response.into_parts();
        Poll::Ready(match body.into_own() {
            Ok(Refused(rejection)) => Err(ClientError::Rejected(rejection)),
            Err(body) => Ok(Response::from_parts(head, body)),
        })
    }
}

impl<S, D, B> fmt::Debug for OutgoingFuture<S, D, B>
where
    S: Service<Request<B>>,
    D: Decider,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OutgoingFuture").field(&self.future).finish()
    }
}

/// Hands rejections over, as bodies that nobody polls.
#[derive(Clone, Copy, Debug)]
struct HandOver;

struct Refused(Rejection);

impl<B: Body> OnReject<B> for HandOver {
    type Body = Refused;

    fn on_reject(&self, rejection: &Rejection, _: RequestHead<'_>) -> Response<Refused> {
        let mut response = Response::new(Refused(rejection.clone()));
        // For telemetry, which knows rejected flows by it.
        *response.status_mut() = rejection.status();
        response
    }
}

impl<B: Body> Answer<B> for Refused {
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
