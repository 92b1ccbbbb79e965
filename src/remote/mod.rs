//! The client of real Agents, over gRPC.
//!
//! Each check is one boxed future that runs on the caller's task. Background work runs on one
//! worker per runtime in which the client is used: it sends ends, cache writes and spans. Flows
//! only add work to the queue of a worker. Every queue is bounded in size and every call in time,
//! and lost work is counted.
//!
//! The state has three types: [`Remote`], which the clones of a client hold, the state that all
//! runtimes share, and the state in each runtime. Other modules add methods to them; imports point
//! from those modules to the state.

mod agents;
mod api;
mod availability;
mod breaker;
mod cache_write;
mod cache_write_call;
mod call;
mod call_head;
mod check;
mod check_rpc;
mod config;
mod connection_tracker;
mod counters;
mod end_batch;
mod end_call;
mod end_job;
mod end_queues;
mod export;
mod failure;
mod flow;
mod given_up_gauge;
mod hand_over;
mod http;
mod in_flight_check;
mod message;
mod meter;
mod probe;
mod probe_answers;
mod queue;
mod recent_failures;
mod response;
mod routing;
mod runtime_state;
mod runtimes;
mod stall_tolerant;
mod state;
mod timeout;
mod transport;
#[cfg(feature = "raw-protocol")]
mod whole_response;
mod worker;

pub(crate) use self::breaker::BreakerConfig;
pub(crate) use self::check::PendingCheck;
pub(crate) use self::config::{ConnectConfig, KeepAlive, RemoteConfig, RemoteTarget};
pub(crate) use self::flow::RemoteFlow;
pub(crate) use self::state::Remote;
pub(crate) use self::transport::tls_settings;
