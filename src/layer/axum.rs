//! For axum: flows as extractors, rejections as responses, and readers of routes and addresses.

use std::borrow::Cow;
use std::net::SocketAddr;

use axum::extract::{ConnectInfo, MatchedPath};
use axum_core::body::Body;
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use super::extract::{ClientAddress, extension_str};
use super::handle::FlowHandle;
use super::head::RequestHead;
use super::http::AgentReject;
use super::reject::OnReject;
use crate::flow::Rejection;

/// Reads the route that axum matched, `/users/{id}`, from its
/// [`MatchedPath`](https://docs.rs/axum/0.8/axum/extract/struct.MatchedPath.html), with the prefix
/// of nested routers. Empty where no route matched: a label is then missing, and the control point
/// is [`other`](crate::layer::FALLBACK_NAME).
///
/// Put the layer in by `Router::route_layer`, so that it runs for requests that match.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use axum::{Router, routing::get};
/// use tower_aperture::ApertureLayer;
/// use tower_aperture::layer::matched_path;
///
/// let app: Router = Router::new()
///     .route("/users/{id}", get(|| async { "a user" }))
///     .route_layer(ApertureLayer::with_control_point(client, matched_path()));
/// # let _ = app;
/// ```
pub fn matched_path() -> impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static {
    extension_str::<MatchedPath>(MatchedPath::as_str)
}

/// Returns the address of the connection as axum knows it, by
/// [`ConnectInfo<SocketAddr>`](https://docs.rs/axum/0.8/axum/extract/struct.ConnectInfo.html), to be
/// completed by the proxies to trust.
///
/// Serve the router by `into_make_service_with_connect_info::<SocketAddr>()`; otherwise no address
/// is known.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use tower_aperture::ApertureLayer;
/// use tower_aperture::layer::{client_ip, peer_addr};
///
/// let layer = ApertureLayer::new(client, "login")
///     .label_from("ip", client_ip(peer_addr().trust("10.0.0.0/8")));
/// # let _ = layer;
/// ```
#[must_use]
pub fn peer_addr() -> ClientAddress {
    ClientAddress::of(|ConnectInfo(peer): &ConnectInfo<SocketAddr>| Some(*peer))
}

impl<S: Sync> FromRequestParts<S> for FlowHandle {
    type Rejection = MissingFlow;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingFlow> {
        let flow = parts.extensions.get::<Self>();
        flow.cloned().ok_or(MissingFlow { _private: () })
    }
}

/// `None` for requests that the layer skipped, and where there is no layer.
impl<S: Sync> OptionalFromRequestParts<S> for FlowHandle {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// The response that the layer gives for the same rejection: the status, `retry-after`, the headers
/// and the body of the rejection, see [`AgentReject`]. A handler does not know the request here: it
/// is an HTTP response for gRPC clients too.
///
/// For handlers that ask by hand:
///
/// ```
/// use axum::body::Body;
/// use axum::{Router, extract::State, routing::post};
/// use tower::ServiceExt;
/// use tower_aperture::{ApertureClient, FlowParams, Rejection};
///
/// async fn export(State(client): State<ApertureClient>) -> Result<&'static str, Rejection> {
///     client.guard("export", FlowParams::new().ramp_mode(true), async { "done" }).await
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let client = ApertureClient::disabled();
/// let app = Router::new().route("/export", post(export)).with_state(client);
/// let request = http::Request::post("/export").body(Body::empty()).unwrap();
/// assert_eq!(app.oneshot(request).await.unwrap().status(), 503);
/// # });
/// ```
impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let request = http::Request::new(());
        let head = RequestHead::new(&request);
        let response = OnReject::<Body>::on_reject(&AgentReject, &self, head);
        let body = self.body().cloned().unwrap_or_default();
        response.map(|_| Body::from(body))
    }
}

/// A handler wants its flow, and no layer left one: a status of 500 that says what is missing.
///
/// ```
/// use axum::body::Body;
/// use axum::{Router, routing::get};
/// use tower::ServiceExt;
/// use tower_aperture::layer::FlowHandle;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let app: Router = Router::new().route("/", get(|_: FlowHandle| async { "never" }));
/// let request = http::Request::get("/").body(Body::empty()).unwrap();
/// assert_eq!(app.oneshot(request).await.unwrap().status(), 500);
/// # });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingFlow {
    _private: (),
}

impl std::fmt::Display for MissingFlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "the request carries no flow: put an `ApertureLayer` with `.expose_flow()` around \
             this handler, and do not skip its requests",
        )
    }
}

impl std::error::Error for MissingFlow {}

impl IntoResponse for MissingFlow {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}
