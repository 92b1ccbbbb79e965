//! An Agent of one node: an [`Engine`] behind the Agent's own protocol.
//!
//! Any Aperture SDK, in any language, asks it as it would ask an Agent. It is for development, for
//! tests and for systems where one node may decide; it has no peers, so two of them limit twice as
//! much. The program `tower-aperture-agent` is this module with a command line.
//!
//! ```
//! use tower_aperture::Engine;
//! use tower_aperture::agent::Agent;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let policy = "
//! blueprint: rate-limiting/base
//! policy:
//!   policy_name: per-user
//!   rate_limiter:
//!     bucket_capacity: 5
//!     fill_amount: 1
//!     parameters: {interval: 1s, limit_by_label_key: user_id}
//!     selectors: [{control_point: checkout}]
//! ";
//! let engine = Engine::builder().policy_text("per-user.yaml", policy).build()?;
//! let agent = Agent::builder(engine).build();
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let stop = async { /* for example tokio::signal::ctrl_c() */ };
//! agent.serve(listener, stop).await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # What it answers
//!
//! On one port, in plaintext or with TLS:
//!
//! | gRPC service | |
//! |---|---|
//! | `aperture.flowcontrol.check.v1.FlowControlService` | checks, ends of flows, caches |
//! | `aperture.flowcontrol.checkhttp.v1.FlowControlServiceHTTP` | checks of HTTP requests |
//! | `opentelemetry.proto.collector.trace.v1.TraceService` | spans of flows that ended |
//! | `grpc.health.v1.Health` | for `""`, these names, and those that an Agent has for them |
//!
//! | HTTP | |
//! |---|---|
//! | `POST /v1/flowcontrol/checkhttp` | CheckHTTP as JSON, as with an Agent |
//! | `POST /v1/flowcontrol/check`, `flowend`, `cachelookup`, `cacheupsert`, `cachedelete` | the others as JSON: an addition of ours, which an Agent does not have |
//! | `GET /health` | 200, or 503 when the end has begun |
//! | `GET /metrics` | OpenMetrics, with the names of an Agent where it has them |
//! | `PUT /v1/policies/{policy}/dynamic-config` | sets the dynamic configuration of a policy, by [`Engine::set_dynamic_config`]: a mapping in JSON or YAML, of 64 KiB at most. Needs an API key: without [`api_keys`](AgentBuilder::api_keys) it is 403 |
//! | `GET /status` | what goes on, as JSON for people; its form may change in any version |
//!
//! JSON is protobuf's: names in camel or snake case come in, camel case goes out, with every field.
//! An error is `{"code": .., "message": .., "details": []}` with the HTTP status of its gRPC code.
//!
//! # Other than an Agent
//!
//! - All that [`engine`](crate::engine) says of its own.
//! - A check with more labels than [allowed](AgentBuilder::max_labels) is `RESOURCE_EXHAUSTED`,
//!   and nothing is decided. A malformed `grpc-timeout` is `INVALID_ARGUMENT`.
//! - A caller that hangs up while its flow waits leaves the queue at once, and what is granted in
//!   an answer that nobody takes is given back at once. (There, it is held until it expires.)
//! - A value for a flux meter that is not finite is invalid. (There, it spoils the sum.)
//! - Without service discovery no flow has services, as on an Agent without it.
//! - Latency summaries are histograms with one bucket.
//!
//! # Metrics
//!
//! `/metrics` has an Agent's series, by its names and labels, and some of its own, which begin with
//! `tower_aperture_agent_`:
//!
//! | series | |
//! |---|---|
//! | `flowcontrol_requests`, `flowcontrol_decisions`, `flowcontrol_reject_reasons`, `flowcontrol_ends` | checks and reported ends, by `control_point` |
//! | `incoming_tokens`, `accepted_tokens`, `rejected_tokens`, `request_in_queue_duration_ms` | schedulers |
//! | `workload_preempted_tokens`, `workload_delayed_tokens`, `workload_on_time` | queued flows that overtook others, were overtaken, or were served in the order of arrival |
//! | `fairness_preempted_tokens`, `fairness_delayed_tokens`, `fairness_on_time` | the same within a workload, of flows that waited behind another one of their fairness label |
//! | `cache_lookup_hits`, `cache_lookup_misses`, `cache_operation_results` | by `cache_type` (`result` or `global`), `operation` and `status` |
//! | `signal_reading`, `invalid_signal_readings`, `infinite_signal_readings` | named signals that change, at each evaluation of their circuit |
//! | `http_requests`, `http_requests_latency_ms` | what is not gRPC, by `handler_name`, `http_method` and `http_status_code` |
//! | `workload_latency_ms`, `workload_requests`, `rate_limiter_counter`, `concurrency_limiter_counter`, `sampler_counter`, `classifier_counter`, `flux_meter`, `invalid_flux_meter` | what spans say |
//!
//! A workload that is named by the value of a flow's label, through `workload_label_key`, is shown
//! as `other`, unless the policy has a workload of that name. Each name has up to 50 000 series of
//! labels that policies in force name, and up to 10 000 with labels that callers made up, such as
//! control points that no policy selects. Series of policies, and of their versions, that are no
//! longer in force are forgotten, and spans about them make no new ones;
//! `tower_aperture_agent_series_left_out` counts what has no series.
//!
//! # PromQL
//!
//! A [`Prometheus`] answers what policies ask beyond what the engine measures itself.
//!
//! # Spans
//!
//! They feed flux meters, and with them the control loops of policies; the workload latency of load
//! schedulers; and the metrics. A span whose check had `expect_end` off gives back the slots of its
//! flow, once.
//!
//! # Keys
//!
//! With [`api_keys`](AgentBuilder::api_keys), every call has to carry one as `x-api-key` (spans and
//! `/status` too), but for health and `/metrics`, which show numbers and names: of policies and what
//! they contain, and of control points. Values of labels are not shown there. A call without is `UNAUTHENTICATED`, or 401 for JSON.
//!
//! # The end
//!
//! When `shutdown` of [`serve`](Agent::serve) is ready, or [`Agent::shutdown`] is called: health
//! says so, no connection is taken any more, those that exist end when their calls are answered,
//! and flows that wait are rejected with `REJECT_REASON_NO_TOKENS`. Had they been told that the
//! node is `UNAVAILABLE`, SDKs would let them all in at once, into a system that was too busy to
//! take them one by one.
//!
//! # The budget
//!
//! What callers can make the node hold is bounded, each line of it by a figure. A call that would
//! exceed a line is refused as `RESOURCE_EXHAUSTED` (429 for JSON) and counted, a flow that would
//! have to wait is rejected with `REJECT_REASON_NO_TOKENS`, and a connection beyond the last is
//! closed. Figures with a link are settings.
//!
//! | of the process | |
//! |---|---|
//! | connections | [4096](AgentBuilder::max_connections) |
//! | calls that come in, headers included | [64 MiB](AgentBuilder::max_buffered) |
//! | decoded calls, until their answers are sent or their flows wait | 64 MiB |
//! | flows that wait | [65 536](AgentBuilder::max_waiting), 64 MiB with their labels, paths, cache keys and values, and about 8 KiB each beside that |
//! | answers that were not taken, `/metrics` and `/status` included | 64 MiB |
//! | keys | [`max_keys`](crate::engine::EngineBuilder::max_keys) a component, 255 bytes of text each: a longer one is kept as 128 bits of its SHA-256 |
//! | caches | [`cache_bytes`](crate::engine::EngineBuilder::cache_bytes) |
//! | control points that no policy selects | 1024 names of 256 bytes |
//!
//! | of a connection | |
//! |---|---|
//! | of each of these four lines of bytes, before the process is asked | 8 KiB |
//! | of answers, decoded calls and waiting flows together | no more than is left for all others: half of a line for one greedy connection, a third each for two |
//! | calls under way | [1024](AgentBuilder::max_concurrent_streams), and as many that were cancelled before they were taken |
//! | errors of the peer that reset a stream, over HTTP/2 | 16 384 |
//! | headers of a call | 16 KiB; HTTP/1 reads and writes 32 KiB at a time |
//! | time without a call | [1 minute](AgentBuilder::idle_timeout), then it is closed, whatever pings it answers |
//! | time to take an answer | [30 s](AgentBuilder::answer_timeout), up to half as much again |
//! | time to send a call | 30 s |
//! | time for a handshake | 10 s |
//! | time to answer a ping | 20 s |
//!
//! | of a message | |
//! |---|---|
//! | bytes, also when it was compressed | [4 MiB](AgentBuilder::max_message_size) |
//! | labels, keys, references, spans, attributes and all else that is repeated | 65 536, each counted as 512 bytes of decoded calls |
//! | members and items of JSON | 8192, each counted as 4 KiB |
//! | the same in the decision that a span carries | 4096; with more, the span counts without it |
//! | labels, or headers of a described request | [1024 of 64 KiB](AgentBuilder::max_labels) |
//!
//! Behind a server of your own, all callers of a [`service`](Agent::service) are one connection, and
//! its connections are that server's.
//!
//! `cargo bench --bench agent` shows what hostile callers get, and a well-behaved one beside them.

mod auth;
mod body;
mod budget;
mod builder;
mod check;
mod connection;
mod convert;
mod delivery;
mod drain;
mod elements;
mod health;
mod http;
mod json;
mod log_throttle;
mod metrics;
mod mounted;
mod prometheus;
mod serve;
mod service;
mod status;
mod tls;
mod trace;
mod unary;
mod waiting;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{Engine, LabelLimits};

pub use self::auth::ApiKey;
pub use self::body::AgentBody;
pub use self::builder::AgentBuilder;
pub use self::prometheus::{Prometheus, PrometheusError, PrometheusStats};
pub use self::serve::ServeError;
pub use self::service::{AgentService, Answering};
pub use self::tls::{Tls, TlsError};

use self::auth::ApiKeys;
use self::budget::Budget;
use self::builder::Limits;
use self::drain::Drain;
use self::log_throttle::LogThrottle;
use self::metrics::Metrics;

// The budget, as the docs of the module have it.

/// What an agent is built with.
const LIMITS: Limits = Limits {
    message_size: 4 << 20,
    labels: LabelLimits {
        count: 1024,
        bytes: 64 << 10,
    },
    streams: 1024,
    connections: 4096,
    waiting: 65_536,
    buffered: 64 << 20,
    idle: Duration::from_secs(60),
    answer: Duration::from_secs(30),
};
/// Bytes of each line that a connection takes before the process is asked: a caller with small
/// calls is answered even while others have taken all that is shared.
const ALLOWANCE: usize = 8 << 10;
/// Bytes of decoded calls.
const DECODED_BYTES: usize = 64 << 20;
/// Bytes of flows that wait in queues.
const WAITING_BYTES: usize = 64 << 20;
/// Bytes that a waiting flow counts for beside its texts.
const FLOW_BYTES: usize = 512;
/// Bytes of answers that were not taken.
const ANSWER_BYTES: usize = 64 << 20;
/// Labels, keys, references, spans, attributes and all else that is repeated in one message.
const MAX_ELEMENTS: usize = 65_536;
/// Bytes that one of them counts for when it is decoded.
const ELEMENT_BYTES: usize = 512;
/// Members of objects and items of lists in one message of JSON.
const MAX_JSON_ELEMENTS: usize = 8192;
/// Bytes that one of them counts for.
const JSON_ELEMENT_BYTES: usize = 4096;
/// Elements of the decision that a span carries.
const MAX_DECISION_ELEMENTS: usize = 4096;
/// Bytes of the headers of one call.
const HEADER_BYTES: u32 = 16 << 10;
/// Bytes that HTTP/1 reads and writes at a time, headers included.
const HTTP1_BYTES: usize = 32 << 10;
/// Streams that are reset for errors of the peer, for each that may be open, before hyper closes
/// the connection. They cost no memory.
const ERRORS_PER_STREAM: usize = 16;

/// An engine that answers over the network. Cloning it is cheap; clones are one node.
///
/// See the [module](self) for an example.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    keys: ApiKeys,
    limits: Limits,
    budget: Arc<Budget>,
    drain: Drain,
    metrics: Metrics,
    refused: LogThrottle,
    crowded: LogThrottle,
    full: LogThrottle,
    untaken: LogThrottle,
    /// No file descriptors, or no memory for a connection.
    lacking: LogThrottle,
}

impl Agent {
    /// Begins with an engine, whose policies decide.
    #[must_use]
    pub fn builder(engine: Engine) -> AgentBuilder {
        AgentBuilder::new(engine)
    }

    /// The engine that decides.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// Lets in only who sends one of these keys, from now on, instead of those of before.
    ///
    /// ```
    /// use tower_aperture::Engine;
    /// use tower_aperture::agent::{Agent, ApiKey};
    ///
    /// let agent = Agent::builder(Engine::builder().build()?)
    ///     .api_keys([ApiKey::new("last-years")])
    ///     .build();
    /// agent.replace_api_keys([ApiKey::new("this-years"), ApiKey::new("next-years")]);
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    pub fn replace_api_keys(&self, keys: impl IntoIterator<Item = ApiKey>) {
        self.inner.keys.replace(keys.into_iter().collect());
    }

    /// All that it answers, as one service: for a server of your own, or an axum router's
    /// `fallback_service`.
    #[must_use]
    pub fn service(&self) -> AgentService {
        AgentService::new(self)
    }

    /// Tells everybody that this is the end, as the [module](self#the-end) has it. For those who
    /// serve it themselves; [`serve`](Self::serve) does it, and it may be called twice.
    pub fn shutdown(&self) {
        self.inner.drain.begin();
    }

    /// What `GET /metrics` answers, in the text format of OpenMetrics.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.inner.metrics.text()
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("engine", &self.inner.engine)
            .field("limits", &self.inner.limits)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// A call has no good key.
    fn refuse(&self, why: &str) {
        self.metrics.node.unauthenticated.inc();
        if let Some(calls) = self.refused.due() {
            log_event!(warn, "{calls} calls were refused as UNAUTHENTICATED: {why}");
        }
    }

    /// A flow should wait, and too many do.
    fn crowded_out(&self) {
        self.metrics.node.crowded_out.inc();
        if let Some(flows) = self.crowded.due() {
            log_event!(
                warn,
                "{flows} flows were turned away: too many wait, or those of their callers hold too \
                 much"
            );
        }
    }

    /// An answer was not taken, and its connection is closed.
    fn untaken(&self) {
        self.metrics.node.untaken_closed.inc();
        if let Some(_connections) = self.untaken.due() {
            log_event!(
                warn,
                "{_connections} connections were closed: their callers did not take their answers"
            );
        }
    }

    /// The system cannot take a connection.
    fn lacks(&self, _error: &std::io::Error) {
        if let Some(_times) = self.lacking.due() {
            log_event!(
                warn,
                "a connection cannot be taken, {_times} times since this was logged: {_error}"
            );
        }
    }

    /// A connection came, and there are too many.
    fn turned_away(&self) {
        self.metrics.node.turned_away.inc();
        if let Some(connections) = self.full.due() {
            let most = self.limits.connections;
            log_event!(
                warn,
                "{connections} connections were closed: there are {most} already"
            );
        }
    }
}
