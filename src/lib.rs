//! Flow control for Tower services with FluxNinja Aperture: decided in process, or by an Agent.
//!
//! A request is a *flow* that enters at a *control point* with *labels*. Policies select flows and
//! limit them. [`ApertureLayer`] asks before your service runs, answers what is rejected, and ends
//! the flow when the response body is over:
//!
#![cfg_attr(
    all(feature = "embedded", feature = "remote"),
    doc = r##"```
use axum::{Router, routing::post};
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

# fn main() -> Result<(), Box<dyn std::error::Error>> {
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
// Or, with an Agent: ApertureClient::builder().address("agent:8089").insecure(true).build()?

let app: Router = Router::new()
    .route("/checkout/{id}", post(|| async { "thank you" }))
    .route_layer(ApertureLayer::new(client, "checkout").label_from_header("user_id", "x-user-id"));
# Ok(()) }
```"##
)]
//!
//! # Where to read on
//!
//! - [`layer`]: the Tower layer, its hooks, and when a flow ends
//! - [`client`]: flows by hand, guards, caches
#![cfg_attr(
    feature = "embedded",
    doc = "- [`engine`]: deciding in process, and [`policy`]: the files it reads"
)]
#![cfg_attr(
    feature = "remote",
    doc = "- [`pb`]: the Agent's own messages, where you need them raw"
)]
#![cfg_attr(
    feature = "server",
    doc = "- [`agent`]: the engine behind the Agent's own protocol, for every language"
)]
#![cfg_attr(
    feature = "metrics",
    doc = "- [`metrics`](mod@metrics): what is counted, and under which names"
)]
//! - [`Decider`]: the layer over something of your own
//!
//! # When the Agent is down
//!
//! Flows that nobody answers for within the check timeout (200 ms by default, connecting included)
//! are [unreachable](FlowDecision::Unreachable). They run, unless they are in ramp mode or the
//! layer was told to fail closed; each is counted in [`ClientStats`] and each change of state is
//! logged once. An Agent that goes on not answering is given up: flows are then unreachable at
//! once, until a probe that no flow waits for finds it again. With several Agents, which share
//! their limits, flows go to those that answer. What may have reached an Agent is not asked again
//! in front of your request, and nothing is done at start: a client is built without I/O and
//! connects when the first flow needs it.
//!
//! # Logs
//!
//! With the feature `tracing`, under these targets. Labels of flows, keys and API keys are in none.
//!
//! | target | level | what |
//! |---|---|---|
//! | `tower_aperture` | warn, info | a change of state, once: Agents that do not answer, or do again; policies |
//! | `tower_aperture` | debug | spans that could not be exported |
//! | `tower_aperture::client` | debug | the span `decision` around a wait for one, with its `control_point` |
//! | `tower_aperture::client` | debug | each rejected flow: `control_point` or the span that has it, `reason`, `wait` |
//! | `tower_aperture::layer` | debug | each request refused by a layer: `control_point`, `reason`, `status` |
//!
//! # Features
//!
//! | feature | default | what it brings |
//! |---|---|---|
//! | `embedded` | yes | `Engine`, which reads policies and decides in process |
//! | `remote` | yes | the client of an Agent, over gRPC |
//! | `tls` | yes | TLS to the Agent with the system's roots |
//! | `telemetry` | yes | a span per flow to the Agent, apart from your own OpenTelemetry |
//! | `tracing` | yes | `tracing` [events and spans](#logs) |
//! | `response-cache` | no | responses answered from the result cache, by the rules of RFC 9111 |
//! | `axum` | no | the handle of a flow as an extractor, a rejection as a response, readers of the matched route and the peer |
//! | `gzip` | no | compressed calls |
//! | `metrics` | no | what flows and clients do, through the `metrics` facade |
//! | `server` | no | `agent`: the engine served to every Aperture SDK, and the program `tower-aperture-agent` |
//! | `test-util` | no | a scripted client that records flows |
//!
//! The minimum supported Rust version is 1.88.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[macro_use]
mod log;

#[cfg(feature = "server")]
pub mod agent;
pub mod client;
#[cfg(feature = "embedded")]
pub mod engine;
mod flow;
pub mod layer;
mod meter;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "remote")]
pub mod pb;
#[cfg(feature = "embedded")]
pub mod policy;
#[cfg(feature = "rego")]
mod rego;
#[cfg(feature = "remote")]
mod remote;
#[cfg(feature = "telemetry")]
mod telemetry;
#[cfg(all(feature = "embedded", feature = "remote"))]
mod wire;

#[doc(inline)]
pub use self::client::{ApertureClient, Flow};
#[cfg(feature = "remote")]
#[doc(inline)]
pub use self::client::{ApertureClientBuilder, BuildError};
#[cfg(feature = "embedded")]
#[doc(inline)]
pub use self::engine::Engine;
#[doc(inline)]
pub use self::flow::{
    AgentStatus, CacheCall, CacheChange, CacheError, CacheEvent, CacheLookup, CachePlace,
    CacheRefusal, CacheValue, Caches, Check, ClientStats, ConnectionState, Decider, Denial,
    EndError, EndResponse, FlowDecision, FlowError, FlowErrorKind, FlowOutcome, FlowParams,
    FlowStatus, HttpAttributes, HttpExtras, Invalidations, LabelLimits, Labels,
    PendingInvalidation, Quota, RejectReason, Rejection, Ticket, TokenReturn, TraceContext,
    Verdict,
};
#[doc(inline)]
pub use self::layer::{Aperture, ApertureLayer, FailureMode, RequestHead};
#[cfg(feature = "embedded")]
#[doc(inline)]
pub use self::policy::{PolicyError, PolicyWarning};

#[cfg(all(doctest, feature = "embedded", feature = "remote"))]
#[doc = include_str!("../README.md")]
struct Readme;
