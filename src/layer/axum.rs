//! Integration with axum: flows as extractors, rejections as responses, and readers of routes and
//! addresses.

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

/// Returns a reader of the route that axum matched, such as `/users/{id}`.
///
/// The route comes from
/// [`MatchedPath`](https://docs.rs/axum/0.8/axum/extract/struct.MatchedPath.html) and includes the
/// prefix of nested routers. It is empty if no route matched: a label is then missing, and the
/// control point is [`other`](crate::layer::FALLBACK_NAME).
///
/// Add the layer with `Router::route_layer`, so that it runs after routing and only for requests
/// that match a route.
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

/// Returns the peer address of the connection, read from axum's
/// [`ConnectInfo<SocketAddr>`](https://docs.rs/axum/0.8/axum/extract/struct.ConnectInfo.html). Add
/// the trusted proxies to it.
///
/// Serve the router with `into_make_service_with_connect_info::<SocketAddr>()`; otherwise the
/// address is missing.
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

/// Extracts `None` from requests that the layer skipped and from requests without a layer.
impl<S: Sync> OptionalFromRequestParts<S> for FlowHandle {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// Returns the response that the layer gives for the same rejection: the status, `retry-after`, the
/// headers and the body of the rejection; see [`AgentReject`].
///
/// The request is not available here, so gRPC clients get a plain HTTP response too.
///
/// Handlers that call [`ApertureClient::guard`](crate::ApertureClient::guard) can return it:
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

/// The rejection of the [`FlowHandle`] extractor if no layer exposed a flow.
///
/// As a response it has status 500 and a text that names what is missing.
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
            "the request has no flow: add an `ApertureLayer` with `.expose_flow()` around this \
             handler, and do not skip its requests",
        )
    }
}

impl std::error::Error for MissingFlow {}

impl IntoResponse for MissingFlow {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}
