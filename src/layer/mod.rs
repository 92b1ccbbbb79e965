//! The Tower layer: flow control in front of any HTTP service.
//!
//! [`ApertureLayer`] asks a [`Decider`](crate::Decider), usually an
//! [`ApertureClient`](crate::ApertureClient), whether a request may run, and tells it when the
//! request was over and how it went. It looks at nothing but heads: bodies stream through, unless
//! [`CaptureBody`] is told to read on.
//!
//! ```
//! use axum::body::Body;
//! use axum::{Router, routing::post};
//! use http::Request;
//! use tower::ServiceExt;
//! use tower_aperture::{ApertureClient, ApertureLayer, FailureMode};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! // Asks nobody; yours has an Agent or an engine behind it.
//! let client = ApertureClient::disabled();
//!
//! let app: Router = Router::new()
//!     .route("/checkout/{id}", post(|| async { "thank you" }))
//!     .route_layer(
//!         ApertureLayer::new(client, "checkout")
//!             .label_from_header("user_id", "x-user-id")
//!             .on_unreachable(FailureMode::Closed),
//!     );
//!
//! let request = Request::post("/checkout/7").body(Body::empty())?;
//! let response = app.oneshot(request).await?;
//! assert_eq!(response.status(), 503);
//! # Ok(()) })}
//! ```
//!
//! # What happens to a request
//!
//! 1. [`poll_ready`](tower_service::Service::poll_ready) is that of the inner service. Nothing is
//!    asked before it is ready, so no decision is wasted on a request that cannot run. On axum
//!    and tonic routers the inner service is always ready.
//! 2. A [skipped](ApertureLayer::skip) request goes straight to the inner service.
//! 3. The control point and the [labels](crate::Labels) are read from the request's head. What
//!    the application [reads](ApertureLayer::labels) wins over its
//!    [constants](ApertureLayer::label), and members of [`baggage`](ApertureLayer::baggage) set
//!    only keys that the layer does not name. A request without a
//!    [required](ApertureLayer::require_label) label is rejected here.
//!    Keys of the [result cache](ApertureLayer::result_cache_key) and of the
//!    [global cache](ApertureLayer::global_cache_key) are read too, where there are hooks for
//!    them.
//! 4. The decider is asked. A decision at hand is taken at once; for one that takes time the
//!    instance of the inner service that is ready waits along.
//! 5. An accepted request runs, and may carry a [handle](FlowHandle) of its flow; or its response
//!    is in the result cache, where the layer was told to keep responses, and the inner service is
//!    not called. A rejected one is answered by the [reject hook](ApertureLayer::on_reject) and
//!    its body dropped, or in [shadow mode](ApertureLayer::shadow_mode) runs all the same; errors
//!    of the inner service pass untouched, a rejection is never one. One that nobody decides about
//!    runs, unless
//!    [ramp mode](ApertureLayer::ramp_mode) or
//!    [`on_unreachable`](ApertureLayer::on_unreachable) says otherwise.
//!
//! # Names and labels from requests
//!
//! Closures read control points and labels: `Fn(RequestHead) -> Cow<str>`. These functions return
//! some: [`header`], [`query`], [`path_template`], [`client_ip`], [`baggage_member`],
//! [`extension_str`] and [`extension`]; [`grpc_service`] and [`grpc_method`] are two. [`joined`]
//! puts several into one, [`first_of`] takes the first that finds something, and [`reader`] fixes
//! the signature of a closure that is bound with `let`. An empty text is no label. A [`RouteTable`]
//! names control points by method and path.
//!
//! # Names that clients choose
//!
//! Policies select by control point, so a client that can make up a control point can leave every
//! limit, and one that makes up many fills metrics and logs. A layer therefore knows which names
//! exist; a request that brings up another one, or none, has the name [`other`](FALLBACK_NAME).
//! Name that control point in a policy to limit those requests. Responses to them are neither
//! looked up in the result cache nor stored there.
//!
//! | where a control point comes from | names that exist |
//! |---|---|
//! | a fixed name, a [`RouteTable`] | its own |
//! | a hook, a text that is not part of the request: a constant, a router's template | all |
//! | a hook, any other text | those in [`known_names`](ApertureLayer::known_names), and those in an embedded engine's policies |
//! | the same with an Agent, or a [`Decider`](crate::Decider) that knows no policies, without such a list | the first 1024, each up to 256 bytes |
//!
//! Labels that [`grpc_service`], [`grpc_method`] and [`path_template`] read from paths are bounded
//! alike: by the list, or without one by the values that policies of an embedded engine compare
//! labels with and the first 1024 others.
//!
//! # What a client can set
//!
//! Labels decide which limit holds for a request, and many of them come from the client:
//!
//! | label | can a client choose it? |
//! |---|---|
//! | a constant, by [`label`](ApertureLayer::label) | no, unless a reader has the same key |
//! | read from a header, the path or the query | yes, unless a proxy in front overwrites the header |
//! | read from an extension that your server or another layer left | as far as they let it |
//! | any key that the layer does not name | yes, with [`baggage`](ApertureLayer::baggage) on, which is the default |
//!
//! A key that the layer names is never set by `baggage`, also when its reader finds nothing. It is
//! named by a constant, a reader, [`require_label`](ApertureLayer::require_label) or
//! [`reserve_label`](ApertureLayer::reserve_label). Of several values of a header, some may be the
//! client's and some a proxy's: the reader joins them, so let the proxy overwrite the header.
//!
//! A value that is read from a request is shortened beyond
//! [200 bytes](ApertureLayer::label_value_limit) and stays a key of its own, and so a client that
//! sends a huge value is limited like any other. Where a request has more labels than
//! [fit](ApertureLayer::label_limits), members of `baggage` go first, then the largest values that
//! clients can choose are shortened, then the largest labels go, first those that closures of
//! [`labels`](ApertureLayer::labels) made. Constants go last. Whatever goes is counted.
//!
//! # Requests without a limit
//!
//! A flow that no limiter decides about runs. With an embedded engine the client counts such flows
//! as [`undecided`](crate::ClientStats::undecided), and a warning names, once each, a control point
//! that no policy selects, and a limiter that was skipped because a flow lacks its label.
//! `Engine::describe` lists such control points. An Agent's answer says less, so the warning is less
//! certain there. A label that must be there is [required](ApertureLayer::require_label).
//!
//! Where policies are to make labels themselves, by classifiers, the layer asks with the
//! attributes of requests: [`ApertureLayer::http`].
//!
//! # When a flow ends
//!
//! Exactly once, with the HTTP status if a head was seen:
//!
//! | what happens | status |
//! |---|---|
//! | rejected, at once | Unset |
//! | the body ends: no more frames, trailers, or a body that knows its end | as judged |
//! | the trailer frame of a gRPC-Web body | as judged |
//! | the body is dropped that says by then that it is at its end | as judged |
//! | the body is dropped after the bytes of `content-length`, or of its exact size | as judged |
//! | the body is dropped that HTTP does not send: HEAD, 204, 304 | as judged |
//! | 101, or a 2xx to CONNECT: with the head | as judged |
//! | the body, or the response before it, is dropped (the client left) | Error |
//! | the body fails | Error |
//! | the inner service returns an error | Error |
//! | a panic in the service, its body or a hook | Error |
//!
//! A response is judged by its head and by its trailers: a status of 500 and more or a
//! `grpc-status` other than 0 is Error, anything else OK, unless
//! [`classify`](ApertureLayer::classify) judges. A decision that is still awaited when the client
//! leaves is given up, and that is the decider's business.
//!
//! Work that outlives its response keeps the flow open with a [`FlowHold`], and with it the
//! concurrency slot: the flow then ends when the response is over and the last hold is dropped. An
//! accepted WebSocket is such work, because its response is over with the head.
//!
//! # gRPC
//!
//! On a tonic server the layer goes around all services, by `Server::builder().layer(..)`, or
//! around one, by `tonic::service::LayerExt::named_layer`. Calls of all kinds are flows from
//! their first byte to their trailers; metadata are headers; [`DefaultReject`] says what clients
//! get that are turned away. [`grpc_service`] or [`path_template`] are good
//! [control points](ApertureLayer::with_control_point). The path alone names a call, because tonic
//! serves calls whatever their content type says. A rejection has the form of gRPC if the request
//! is a POST with the media type `application/grpc`, or a relative of it such as
//! `application/grpc-web-text+proto`; any other is answered as plain HTTP.
//!
//! # Deadlines of callers
//!
//! The header `grpc-timeout` of a POST says how long the caller waits, counted from the arrival of
//! the request at the layer. The decision gets no more time than that, and no more than the
//! [check timeout](ApertureLayer::check_timeout). Once the caller's deadline has passed the request
//! does not run: it is rejected with
//! [`RejectReason::DeadlineExceeded`](crate::RejectReason::DeadlineExceeded), DEADLINE_EXCEEDED in
//! gRPC and 504 in HTTP, also in [shadow mode](ApertureLayer::shadow_mode) and when nobody decided.
//! After a wait the inner service gets the header with the time that is left. A malformed value is
//! ignored.
//!
//! A gRPC-Web response, told by its content type, has its trailers in the last frame of the body,
//! in base64 for `application/grpc-web-text`. The layer follows the frames as they pass, copies
//! nothing but the trailers (up to 16 KiB), and ends the flow with the trailer frame. A body that
//! ends without a `grpc-status`, or is cut off, is judged like the code 2, UNKNOWN, which clients
//! make of it. A trailer frame that is compressed (flag 0x81) cannot be read, and neither can data
//! of which the body shows only the first parts: the head alone is judged then.
//!
//! A handler that asks by hand turns a [`Rejection`](crate::Rejection) into a `tonic::Status` with
//! `?` (feature `remote`).
//!
//! # Clients
//!
//! The layer is the same around outgoing services: a tonic `Channel`, a client of hyper-util. A
//! rejected call then comes back as a response of your own process, or, with
//! [`into_client`](ApertureLayer::into_client), as the error [`ClientError::Rejected`]. A quota
//! scheduler makes calls wait for their turn, as long as the
//! [check timeout](ApertureLayer::check_timeout) lets them.
//!
//! # Panics in hooks
//!
//! Hooks run on the request's path, and a panic there is the request's. It ends the flow; no hook
//! runs while something is dropped.

mod answer;
mod answering;
#[cfg(feature = "axum")]
mod axum;
mod body;
#[cfg(feature = "response-cache")]
mod cache;
#[cfg(not(feature = "response-cache"))]
#[path = "no_cache.rs"]
mod cache;
mod client_error;
mod config;
mod deadline;
mod error;
mod extract;
mod future;
mod grpc;
mod grpc_web;
mod guard;
mod handle;
mod head;
mod hold;
mod http;
mod label_rules;
#[allow(clippy::module_inception)]
mod layer;
mod names;
mod outgoing;
mod plan;
mod problem;
mod rate_limit;
mod reject;
mod routes;
mod service;
mod spelling;
#[cfg(feature = "remote")]
mod status;
mod templates;
mod unreachable;

pub use self::answer::{NoBody, RejectBody};
#[cfg(feature = "axum")]
pub use self::axum::{MissingFlow, matched_path, peer_addr};
pub use self::body::ResponseBody;
#[cfg(feature = "response-cache")]
pub use self::cache::{Cached, CachedBody, ResultCacheLayer};
pub use self::client_error::ClientError;
pub use self::error::LayerError;
pub use self::extract::{
    ClientAddress, JoinedParts, baggage_member, client_ip, extension, extension_str, first_of,
    grpc_method, grpc_service, header, joined, path_template, query, reader, try_header,
};
pub use self::future::ResponseFuture;
pub use self::handle::FlowHandle;
pub use self::head::{RequestHead, ResponseHead};
pub use self::hold::FlowHold;
pub use self::http::{
    AgentReject, AgentRejectBody, CaptureBody, CaptureBodyFuture, CaptureBodyService, ReplayBody,
};
pub use self::layer::ApertureLayer;
pub use self::names::FALLBACK_NAME;
pub use self::outgoing::{ApertureClientLayer, Outgoing, OutgoingFuture};
pub use self::problem::{ProblemBody, ProblemDetails};
pub use self::reject::{DefaultReject, OnReject};
pub use self::routes::{Point, RouteTable, Skip};
pub use self::service::Aperture;
pub use self::unreachable::FailureMode;
