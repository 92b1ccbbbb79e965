//! The Tower layer: flow control in front of any HTTP service.
//!
//! [`ApertureLayer`] checks with a [`Decider`](crate::Decider), usually an
//! [`ApertureClient`](crate::ApertureClient), whether a request may run, and reports the end and
//! the outcome of the request to it. The layer reads only heads; bodies stream through, unless
//! [`CaptureBody`] is used to read them.
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
//! // Without a backend, so every check is unreachable. Real clients use an Agent or an engine.
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
//! 1. [`poll_ready`](tower_service::Service::poll_ready) polls the inner service. Checks start only
//!    once it is ready, so no decision is wasted on a request that cannot run. On axum and tonic
//!    routers the inner service is always ready.
//! 2. A [skipped](ApertureLayer::skip) request goes directly to the inner service.
//! 3. The layer reads the control point and the [labels](crate::Labels) from the head of the
//!    request. Labels that the application [reads](ApertureLayer::labels) replace its
//!    [constants](ApertureLayer::label), and members of [`baggage`](ApertureLayer::baggage) set
//!    only keys that the layer does not name. A request without a
//!    [required](ApertureLayer::require_label) label is rejected here.
//!    If there are hooks for them, the layer also reads keys of the
//!    [result cache](ApertureLayer::result_cache_key) and of the
//!    [global cache](ApertureLayer::global_cache_key).
//! 4. The layer checks the request with the decider. An immediate decision is used at once. While a
//!    decision is pending, the request keeps the instance of the inner service that is ready.
//! 5. - An accepted request runs, and may carry a [handle](FlowHandle) to its flow. If a response
//!      cache is part of the inner service and the result cache has a response to the request, the
//!      cache returns that response.
//!    - A rejected request gets its response from the [reject hook](ApertureLayer::on_reject), and
//!      its body is dropped. In [shadow mode](ApertureLayer::shadow_mode) it runs instead. A
//!      rejection is never an error; errors of the inner service pass through unchanged.
//!    - An unreachable request, which got no decision, runs, unless
//!      [ramp mode](ApertureLayer::ramp_mode) is on or
//!      [`on_unreachable`](ApertureLayer::on_unreachable) rejects it.
//!
//! # Names and labels from requests
//!
//! Readers, closures `Fn(RequestHead) -> Cow<str>`, read control points and labels. An empty text
//! is no label. These functions return readers: [`header`], [`query`], [`path_template`],
//! [`client_ip`], [`baggage_member`], [`extension_str`] and [`extension`]; [`grpc_service`] and
//! [`grpc_method`] are readers themselves. [`joined`] combines several readers into one,
//! [`first_of`] uses the first reader that returns a text, and [`reader`] fixes the signature of a
//! closure that is bound with `let`. A [`RouteTable`] maps methods and paths to control points.
//!
//! # Names that clients choose
//!
//! Policies select flows by control point. A client that can invent a control point can evade every
//! limit, and a client that invents many of them floods metrics and logs. A layer therefore accepts
//! only known names. An unknown or empty name is replaced by [`other`](FALLBACK_NAME). Select that
//! control point in a policy to limit such requests. Their responses are neither looked up in the
//! result cache nor stored there.
//!
//! | source of the control point | known names |
//! |---|---|
//! | a fixed name, a [`RouteTable`] | its own names |
//! | a hook that returns a text that is not part of the request: a constant, a router's template | all |
//! | a hook that returns any other text | the names in [`known_names`](ApertureLayer::known_names), and the names in the policies of an embedded engine |
//! | the same with an Agent, or with a [`Decider`](crate::Decider) without policies, if there is no such list | the first 1024 names of up to 256 bytes each |
//!
//! Labels that [`grpc_service`], [`grpc_method`] and [`path_template`] read from paths are bounded
//! in the same way: by the list or, without a list, by the values with which policies of an
//! embedded engine compare labels, and the first 1024 other names.
//!
//! # What a client can set
//!
//! Labels determine the limit of a request, and many of them come from the client:
//!
//! | label | can a client choose it? |
//! |---|---|
//! | a constant, by [`label`](ApertureLayer::label) | no, unless a reader has the same key |
//! | read from a header, the path or the query | yes, unless a proxy overwrites the header |
//! | read from an extension that your server or another layer inserted | as far as they allow it |
//! | any key that the layer does not name | yes, if [`baggage`](ApertureLayer::baggage) is on, which is the default |
//!
//! Members of `baggage` never set a key that the layer names, even if the reader of the key returns
//! no value. A constant, a reader, [`require_label`](ApertureLayer::require_label) and
//! [`reserve_label`](ApertureLayer::reserve_label) name a key. If a header has several values, some
//! may come from the client and some from a proxy. The reader joins them, so configure the proxy to
//! overwrite the header.
//!
//! A value that is read from a request is shortened beyond [200
//! bytes](ApertureLayer::label_value_limit) and remains a key of its own, so a client that sends a
//! huge value is limited like any other. If a request has more labels than
//! [allowed](ApertureLayer::label_limits), members of `baggage` are dropped first. Then the largest
//! values that clients can choose are shortened, and then the largest labels are dropped, first
//! those from closures of [`labels`](ApertureLayer::labels). Constants are dropped last. All
//! dropped labels are counted.
//!
//! # Requests without a limit
//!
//! A flow runs if no limiter decides about it. With an embedded engine, the client counts such
//! flows as [`undecided`](crate::ClientStats::undecided). It logs a warning, once each, for a
//! control point that no policy selects, and for a limiter that was skipped because a flow lacks
//! its label. `Engine::describe` lists such control points. The response of an Agent contains less
//! detail, so the warning is less certain there. Use
//! [`require_label`](ApertureLayer::require_label) for a label that limits depend on.
//!
//! If policies make labels themselves, by classifiers, use [`ApertureLayer::http`]: the layer then
//! sends the attributes of requests with the check.
//!
//! # When a flow ends
//!
//! A flow ends exactly once. Its end reports the HTTP status if the response had a head, and a flow
//! status:
//!
//! | event | flow status |
//! |---|---|
//! | the request is rejected; the flow ends at once | Unset |
//! | the body ends: no more frames, trailers, or a body that reports its end | as classified |
//! | the trailer frame of a gRPC-Web body | as classified |
//! | the body is dropped and reports its end by then | as classified |
//! | the body is dropped after all bytes of `content-length`, or of its exact size | as classified |
//! | a body that HTTP does not send (HEAD, 204, 304) is dropped | as classified |
//! | 101, or a 2xx to CONNECT: the flow ends with the head | as classified |
//! | the body is dropped earlier, or the response future is dropped (the client disconnected) | Error |
//! | the body fails | Error |
//! | the inner service returns an error | Error |
//! | a panic in the service, its body or a hook | Error |
//!
//! The layer classifies a response by its head and its trailers: an HTTP status of 500 or more, or
//! a `grpc-status` other than 0, is Error, and everything else is OK. A
//! [`classify`](ApertureLayer::classify) hook replaces this rule. If the client disconnects while
//! the decision is pending, the check is dropped; the decider handles that case.
//!
//! Work that outlives its response keeps the flow and its concurrency slot with a [`FlowHold`]. The
//! flow then ends once the response is over and the last hold is dropped. An accepted WebSocket is
//! such work, because its response is over with the head.
//!
//! A handler [settles](FlowHandle::settle) a flow whose cost is known afterwards. The last
//! settlement before the end counts, whatever the end is.
//!
//! # gRPC
//!
//! On a tonic server, the layer wraps all services with `Server::builder().layer(..)`, or a single
//! one with `tonic::service::LayerExt::named_layer`. Calls of all kinds, unary and streaming, are
//! flows from their first byte to their trailers. Metadata are headers. [`DefaultReject`] describes
//! the response to rejected calls. [`grpc_service`] and [`path_template`] are suitable [control
//! points](ApertureLayer::with_control_point). They identify a call by its path alone, because
//! tonic serves calls whatever their content type. A rejection is a gRPC response if the request is
//! a POST with the media type `application/grpc` or a variant such as
//! `application/grpc-web-text+proto`; otherwise it is a plain HTTP response.
//!
//! # Deadlines of callers
//!
//! The header `grpc-timeout` of a POST states how long the caller waits, counted from the arrival
//! of the request at the layer. The check may take at most that time, and at most the [check
//! timeout](ApertureLayer::check_timeout). Once the deadline of the caller has passed, the request
//! does not run. It is rejected with
//! [`RejectReason::DeadlineExceeded`](crate::RejectReason::DeadlineExceeded), DEADLINE_EXCEEDED in
//! gRPC and 504 in HTTP, also in [shadow mode](ApertureLayer::shadow_mode) and if the check was
//! unreachable. After a wait, the inner service gets the header with the remaining time. A
//! malformed value is ignored.
//!
//! A gRPC-Web response, recognized by its content type, has its trailers in the last frame of the
//! body, in base64 for `application/grpc-web-text`. The layer parses the frames as they pass,
//! copies only the trailers (up to 16 KiB), and ends the flow with the trailer frame. A body that
//! is cut off or ends without a `grpc-status` is classified like code 2, UNKNOWN, as clients do. A
//! compressed trailer frame (flag 0x81) cannot be read, and neither can data if the body exposes
//! only its first parts; the head alone is then classified.
//!
//! A handler that calls [`ApertureClient::guard`](crate::ApertureClient::guard) converts a
//! [`Rejection`](crate::Rejection) to a `tonic::Status` with `?` (feature `remote`).
//!
//! # Clients
//!
//! The layer also wraps client services: a tonic `Channel`, a client of hyper-util. A rejected call
//! returns a response that your own process made or, with
//! [`into_client`](ApertureLayer::into_client), the error [`ClientError::Rejected`]. A quota
//! scheduler queues calls until tokens are free, for at most the [check
//! timeout](ApertureLayer::check_timeout).
//!
//! # Panics in hooks
//!
//! Hooks run on the request path, and a panic in a hook unwinds the task of the request. It ends
//! the flow. No hook runs during a drop.

mod action;
#[cfg(feature = "axum")]
mod axum;
mod body;
mod builder;
mod check;
mod classifier;
mod client_error;
mod deadline;
mod direct;
pub(crate) mod error;
pub(crate) mod extract;
mod future;
mod grpc;
mod grpc_web;
mod guard;
mod handle;
pub(crate) mod head;
mod hold;
mod holds;
mod http;
#[allow(clippy::module_inception)]
mod layer;
mod names;
mod normalize_path;
mod outgoing;
mod problem;
mod reject;
mod replacement_body;
mod request_extras;
mod request_labels;
pub(crate) mod response_lookup;
mod routes;
mod service;
pub(crate) mod settings;
mod templates;
#[cfg(feature = "remote")]
mod tonic_status;
mod unreachable;

#[cfg(feature = "axum")]
pub use self::axum::{MissingFlow, matched_path, peer_addr};
pub use self::body::ResponseBody;
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
pub use self::outgoing::{ApertureClientFuture, ApertureClientLayer, ApertureClientService};
pub use self::problem::{ProblemBody, ProblemDetails};
pub use self::reject::{DefaultReject, OnReject};
pub use self::replacement_body::{NoBody, RejectBody};
pub use self::routes::{RouteTable, RouteTarget, Skip};
pub use self::service::Aperture;
pub use self::unreachable::FailureMode;
