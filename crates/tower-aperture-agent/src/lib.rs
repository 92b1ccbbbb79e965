//! Serves an [`Engine`](tower_aperture::Engine) over the Agent's own protocol: a standalone Agent.
//!
//! Aperture SDKs of any language connect to it as they would to an Aperture Agent. It is meant for
//! development, for tests, and for systems in which one process may decide. It has no peers: two of
//! them allow twice as much. The program `tower-aperture-agent` is this module with a command line.
//!
//! ```
//! use tower_aperture::Engine;
//! use tower_aperture_agent::Agent;
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
//! # Services and routes
//!
//! All on one port, in plaintext or with TLS:
//!
//! | gRPC service | |
//! |---|---|
//! | `aperture.flowcontrol.check.v1.FlowControlService` | checks, ends of flows, caches |
//! | `aperture.flowcontrol.checkhttp.v1.FlowControlServiceHTTP` | checks of HTTP requests, with their attributes |
//! | `opentelemetry.proto.collector.trace.v1.TraceService` | spans of ended flows |
//! | `grpc.health.v1.Health` | for `""`, the names above, and the names that an Agent uses for them |
//!
//! | HTTP | |
//! |---|---|
//! | `POST /v1/flowcontrol/checkhttp` | CheckHTTP as JSON, as in an Agent |
//! | `POST /v1/flowcontrol/check`, `flowend`, `cachelookup`, `cacheupsert`, `cachedelete` | the other calls as JSON; an addition of this crate, which an Agent does not have |
//! | `GET /health` | 200, or 503 once shutdown has begun |
//! | `GET /livez` | 200 while the process serves, during shutdown too: a probe that restarts the agent |
//! | `GET /readyz` | 200 from the first call on, because policies are loaded before an agent serves; 503 once shutdown has begun: a probe that withdraws the agent from load balancing |
//! | `GET /metrics` | OpenMetrics; series that an Agent has too keep its names |
//! | `PUT /v1/policies/{policy}/dynamic-config` | sets the dynamic configuration of a policy through [`Engine::set_dynamic_config`](tower_aperture::Engine::set_dynamic_config): a mapping in JSON or YAML of at most 64 KiB. Requires an API key: without [`api_keys`](AgentBuilder::api_keys) the response is 403 |
//! | `GET /status` | the current state as JSON, for people to read; its form may change in any version |
//!
//! JSON follows the protobuf mapping: field names are accepted in camel or snake case, and
//! responses contain every field in camel case. An error has the HTTP status of its gRPC code, and
//! the body `{"code": .., "message": .., "details": []}`.
//!
//! # Differences from an Agent
//!
//! - All differences listed in [`engine`](tower_aperture::engine).
//! - A check with more labels than [allowed](AgentBuilder::max_labels) fails with
//!   `RESOURCE_EXHAUSTED`, without a decision. A malformed `grpc-timeout` fails with
//!   `INVALID_ARGUMENT`.
//! - When a caller cancels while its flow waits, the flow leaves the queue immediately. When a
//!   caller does not read a response, the slots granted in it are returned immediately. An Agent
//!   holds them until they expire.
//! - A value for a flux meter that is not finite is invalid. In an Agent it makes the sum useless.
//! - Flows have no services, because there is no service discovery; an Agent without it does the
//!   same.
//! - Latency summaries are histograms with one bucket.
//!
//! # Threads
//!
//! Calls run in the task of their connection until they have to wait, so the calls of one connection
//! use one processor at a time. More connections use more processors, up to the threads of the
//! runtime.
//!
//! # Metrics
//!
//! `/metrics` has an Agent's series, with its names and labels, and series of this crate, whose
//! names begin with `tower_aperture_agent_`:
//!
//! | series | |
//! |---|---|
//! | `flowcontrol_requests`, `flowcontrol_decisions`, `flowcontrol_reject_reasons`, `flowcontrol_ends` | checks and reported ends, by `control_point` |
//! | `incoming_tokens`, `accepted_tokens`, `rejected_tokens`, `request_in_queue_duration_ms` | schedulers |
//! | `workload_preempted_tokens`, `workload_delayed_tokens`, `workload_on_time` | queued flows that overtook others, were overtaken, or were served in order of arrival |
//! | `fairness_preempted_tokens`, `fairness_delayed_tokens`, `fairness_on_time` | the same within a workload, for flows that waited behind another flow of their fairness label |
//! | `cache_lookup_hits`, `cache_lookup_misses`, `cache_operation_results` | by `cache_type` (`result` or `global`), `operation` and `status` |
//! | `signal_reading`, `invalid_signal_readings`, `infinite_signal_readings` | named signals that change, recorded at each evaluation of their circuit |
//! | `http_requests`, `http_requests_latency_ms` | requests that are not gRPC, by `handler_name`, `http_method` and `http_status_code` |
//! | `workload_latency_ms`, `workload_requests`, `rate_limiter_counter`, `concurrency_limiter_counter`, `sampler_counter`, `classifier_counter`, `flux_meter`, `invalid_flux_meter` | values from spans |
//!
//! A workload that takes its name from the value of a flow's label, through `workload_label_key`,
//! is shown as `other`, unless the policy has a workload of that name. Each metric has up to 50 000
//! series whose labels are named by policies in force, and up to 10 000 series with labels that
//! callers chose, such as control points that no policy selects. Series of policies, and of policy
//! versions, that are no longer in force are removed, and spans about them create no new ones.
//! `tower_aperture_agent_series_left_out` counts observations that have no series.
//!
//! # PromQL
//!
//! A [`Prometheus`] answers the queries of policies that the engine cannot measure itself.
//!
//! # Spans
//!
//! Spans feed the flux meters, and through them the control loops of policies; they also feed the
//! workload latency of load schedulers, and the metrics. A span whose check had `expect_end` off
//! returns the slots of its flow, once.
//!
//! # Keys
//!
//! With [`api_keys`](AgentBuilder::api_keys), every call must carry a key as `x-api-key`, exports
//! of spans and `/status` included. Health, `/livez`, `/readyz` and `/metrics` need no key:
//! `/metrics` shows numbers, and the names of policies, of their components and of control points,
//! but no values of labels; the others show one word. A call without a valid key fails with
//! `UNAUTHENTICATED`, or 401 for JSON.
//!
//! # Shutdown
//!
//! Shutdown begins when the `shutdown` future of [`serve`](Agent::serve) completes or
//! [`Agent::shutdown`] is called. Health then reports that the agent is not serving, the agent
//! accepts no further connections, existing connections close when their calls are answered, and
//! waiting flows are rejected with `REJECT_REASON_NO_TOKENS`. An error `UNAVAILABLE` would make
//! SDKs fail open and admit all waiting flows at once, into a system that was too busy to admit
//! them one by one.
//!
//! A probe of `/readyz` fails from then on: it gets 503 on a connection that is still open, and a
//! new connection is refused. Behind a server of your own, `/readyz` returns 503 and `/livez` 200
//! for as long as that server accepts connections.
//!
//! # The budget
//!
//! The memory that callers can make the agent hold is bounded, each kind by a limit of its own. A
//! call that would exceed a limit is refused with `RESOURCE_EXHAUSTED` (429 for JSON) and counted.
//! A flow that would have to wait beyond a limit is rejected with `REJECT_REASON_NO_TOKENS`. A
//! connection beyond the limit is closed. Linked figures are settings.
//!
//! | per process | |
//! |---|---|
//! | connections, those of probes included | [4096](AgentBuilder::max_connections) |
//! | incoming calls, headers included | [64 MiB](AgentBuilder::max_buffered) |
//! | decoded calls, until their responses are sent or their flows wait | 64 MiB |
//! | waiting flows | [65 536](AgentBuilder::max_waiting), 64 MiB with their labels, paths, cache keys and values, and about 8 KiB each in addition |
//! | responses that callers have not read, `/metrics` and `/status` included | 64 MiB |
//! | keys | [`max_keys`](tower_aperture::engine::EngineBuilder::max_keys) per component, 255 bytes of text each: a longer key is replaced by 128 bits of its SHA-256 |
//! | caches | [`cache_bytes`](tower_aperture::engine::EngineBuilder::cache_bytes) |
//! | control points that no policy selects | 1024 names of 256 bytes |
//!
//! | per connection | |
//! |---|---|
//! | bytes of each of the four kinds above, before the shared limit applies | 8 KiB |
//! | responses, decoded calls and waiting flows, each | no more than is left for all other connections: half of the limit for one greedy connection, a third each for two |
//! | concurrent calls | [1024](AgentBuilder::max_concurrent_streams), and as many that were cancelled before they were accepted |
//! | streams reset for errors of the peer, over HTTP/2 | 16 384 |
//! | headers of a call | 16 KiB; HTTP/1 reads and writes 32 KiB at a time |
//! | time without a call | [1 minute](AgentBuilder::idle_timeout); then the connection is closed, even if it answers pings |
//! | time to read a response | [30 s](AgentBuilder::answer_timeout), and up to half as much again |
//! | time to send a call | 30 s |
//! | time for a handshake | 10 s |
//! | time to answer a ping | 20 s |
//!
//! | per message | |
//! |---|---|
//! | bytes, after decompression too | [4 MiB](AgentBuilder::max_message_size) |
//! | labels, keys, references, spans, attributes and all other repeated elements | 65 536, each counted as 512 bytes of decoded calls |
//! | members and items in JSON | 8192, each counted as 4 KiB |
//! | repeated elements, or members and items, in the decision that a span carries | 4096; a span with more counts without its decision |
//! | labels of a flow, or headers of a described request | [1024 of 64 KiB](AgentBuilder::max_labels) |
//!
//! Behind a server of your own, all callers of one [`service`](Agent::service) count as one
//! connection, and limits on real connections are up to that server.
//!
//! `cargo bench --bench agent` shows how much memory hostile callers can take, and the latency of a
//! well-behaved caller beside them.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[macro_use(log_event)]
extern crate aperture_core;

mod agent;
mod auth;
mod body;
mod builder;
mod call;
mod call_executor;
mod check;
mod check_http;
mod connection;
mod convert;
mod delivery;
mod drain;
mod elements;
mod ended_flow;
mod grpc;
mod health;
mod json;
mod limits;
mod log_throttle;
mod memory_budget;
mod metrics;
mod named_services;
mod prometheus;
mod serve;
mod service;
mod status;
mod tls;
mod trace;
mod waiting;

pub use self::agent::Agent;
pub use self::auth::ApiKey;
pub use self::body::AgentBody;
pub use self::builder::AgentBuilder;
pub use self::prometheus::{Prometheus, PrometheusError, PrometheusStats};
pub use self::serve::ServeError;
pub use self::service::{AgentService, ResponseFuture};
pub use self::tls::{Tls, TlsError};
