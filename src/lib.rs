//! Flow control for HTTP and gRPC services as a Tower layer, in process or with an Aperture Agent.
//!
//! A request is a *flow* that enters at a *control point* with *labels*. Policies select flows and
//! limit them. [`ApertureLayer`] checks each request before your service runs, responds to rejected
//! ones, and ends the flow at the end of the response body:
//!
#![cfg_attr(
    all(feature = "embedded", feature = "remote"),
    doc = r##"```
use axum::{Router, routing::post};
use tower_aperture::policy::{Policy, RateLimit};
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

# fn main() -> Result<(), Box<dyn std::error::Error>> {
// Five requests at once for each user, and one more each second.
let policy = Policy::new("per-user")
    .at("checkout")
    .limit(RateLimit::per_second(1).burst(5).by("user_id"));

let layer = ApertureLayer::embedded(policy)?.label_from_header("user_id", "x-user-id");
let app: Router = Router::new()
    .route("/checkout/{id}", post(|| async { "thank you" }))
    .route_layer(layer);

// Or with policies in files, and an engine that several layers share:
let policy = "
blueprint: rate-limiting/base
policy:
  policy_name: per-user
  rate_limiter:
    bucket_capacity: 5
    fill_amount: 1
    parameters: {interval: 1s, limit_by_label_key: user_id}
    selectors: [{control_point: checkout}]
";
let engine = Engine::builder().policy_text("per-user.yaml", policy).build()?;
let client = ApertureClient::embedded(engine);
let layer = ApertureLayer::new(client, "checkout").label_from_header("user_id", "x-user-id");

// Or with an Agent: ApertureClient::builder().address("agent:8089").insecure(true).build()?
# let _ = (app, layer);
# Ok(()) }
```"##
)]
//!
//! # Further documentation
//!
#![cfg_attr(
    all(feature = "embedded", feature = "remote"),
    doc = "- [`guides`]: a cookbook, from another crate or SDK, in process to Agent, limits behind a proxy, priorities, tokens"
)]
//! - [`layer`]: the Tower layer, its hooks, and when a flow ends
//! - [`client`]: flows without a layer, guards
//! - [`cache`]: the result cache and the global cache
#![cfg_attr(
    feature = "embedded",
    doc = "- [`policy`]: policies, in code and in files, and [`engine`]: decisions in process"
)]
#![cfg_attr(
    all(feature = "remote", feature = "raw-protocol"),
    doc = "- [`pb`]: the Agent's messages, for direct use"
)]
#![cfg_attr(
    feature = "metrics",
    doc = "- [`metrics`](mod@metrics): the metrics and their names"
)]
//! - [`decider`]: the interface for a decider of your own
//!
//! # Unreachable Agents
//!
//! Flows without a decision within the check timeout (200 ms by default, including the time to
//! connect) and the grace of the client are [unreachable](FlowDecision::Unreachable). They run,
//! unless they are in ramp mode or their layer fails closed. Each is counted in [`ClientStats`], and
//! each change of state is logged once.
//!
//! An Agent that stays unresponsive is given up: flows are then unreachable at once, until
//! the Agent answers a probe in the background. With several Agents, which share their limits, flows
//! go to those that answer. A check that may have reached an Agent is not repeated while the request
//! waits. A client is built without I/O and connects when the first flow needs it.
//!
//! # Logs
//!
//! The feature `tracing` enables logs under these targets. They never have labels of flows, keys or
//! API keys.
//!
//! | target | level | content |
//! |---|---|---|
//! | `tower_aperture` | warn, info | changes of state, each once: Agents that stop or resume answering; policies |
//! | `tower_aperture` | debug | spans that could not be exported |
//! | `tower_aperture::client` | debug | the span `decision` around the wait for a decision, with its `control_point` |
//! | `tower_aperture::client` | debug | each rejected flow: `control_point` or the span that has it, `reason`, `wait` |
//! | `tower_aperture::layer` | debug | each request rejected by a layer: `control_point`, `reason`, `status` |
//!
//! # Features
//!
//! | feature | default | provides |
//! |---|---|---|
//! | `embedded` | yes | `Engine`, which reads policies and decides in process |
//! | `remote` | yes | the client of an Agent, over gRPC |
//! | `tls` | yes | TLS to the Agent with the system's roots |
//! | `telemetry` | yes | a span per flow for the Agent, independent of your own OpenTelemetry |
//! | `tracing` | yes | `tracing` [events and spans](#logs) |
//! | `response-cache` | no | responses from the result cache, by the rules of RFC 9111 |
//! | `axum` | no | the handle of a flow as an extractor, a rejection as a response, readers of the matched route and the peer |
//! | `gzip` | no | compressed calls |
//! | `raw-protocol` | no | with `remote`: the module `pb` and methods with types of `tonic` and `prost`; they follow the versions of both and are not covered by the stability promise |
//! | `rego` | no | classifiers with Rego modules |
//! | `redis` | no | a store in Redis or Valkey, for limits that several engines share |
//! | `metrics` | no | metrics of flows and clients, through the `metrics` facade |
//! | `test-util` | no | a scripted client that records flows |
//!
//! The minimum supported Rust version is 1.88.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[macro_use(log_event)]
extern crate aperture_core;

pub mod cache;
pub mod client;
pub mod decider;
#[cfg(feature = "embedded")]
mod embedded;
#[cfg(all(any(doc, doctest), feature = "embedded", feature = "remote"))]
pub mod guides;
pub mod layer;
#[cfg(feature = "remote")]
mod messages;
mod meter;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(all(feature = "remote", feature = "raw-protocol"))]
pub mod pb;
#[cfg(feature = "embedded")]
pub mod policy;
#[cfg(feature = "remote")]
mod protobuf;
mod rejection;
#[cfg(feature = "remote")]
mod remote;
#[cfg(feature = "response-cache")]
pub mod response_cache;
mod settlement;
#[cfg(feature = "remote")]
mod telemetry;
#[cfg(all(feature = "embedded", feature = "remote", feature = "raw-protocol"))]
mod wire;

/// The types that all parts share.
mod flow {
    pub(crate) use crate::rejection::Rejection;
    pub use aperture_core::*;
}

#[doc(inline)]
pub use aperture_core::{
    AgentStatus, Check, ClientStats, ConnectionState, Decider, Denial, EndError, EndResponse,
    FlowDecision, FlowError, FlowErrorKind, FlowOutcome, FlowParams, FlowStatus, HttpAttributes,
    HttpExtras, LabelLimits, Labels, Quota, RejectReason, SettleError, Ticket, TokenReturn,
    TraceContext, Verdict,
};
#[cfg(feature = "embedded")]
#[doc(inline)]
pub use aperture_engine::{Engine, PolicyError, PolicyWarning, engine};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use aperture_redis as redis;

#[doc(inline)]
pub use self::client::{ApertureClient, Flow};
#[cfg(feature = "remote")]
#[doc(inline)]
pub use self::client::{ApertureClientBuilder, BuildError};
#[doc(inline)]
pub use self::layer::{Aperture, ApertureLayer, FailureMode, RequestHead};
pub use self::rejection::Rejection;

#[cfg(all(doctest, feature = "embedded", feature = "remote"))]
#[doc = include_str!("../README.md")]
struct Readme;
