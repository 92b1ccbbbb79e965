//! The client's own connections to Agents.
//!
//! Each Agent has a [`Pool`] in each runtime. A pool tracks how many streams are in use on each
//! connection and how many the peer allows. Checks leave some streams free for the ends of flows
//! and for probes, and the pool opens further connections before checks would need those.

mod connect;
mod connection;
mod counted_stream;
mod driver;
mod error;
mod pool;
mod request;
mod start_tls;
#[cfg(feature = "tls")]
mod tls;
mod unary;
#[cfg(not(feature = "tls"))]
mod tls {
    pub(crate) type ClientTls = std::convert::Infallible;
}

use std::sync::Arc;

use tonic::transport::Channel;

pub(super) use self::connect::Connector;
pub(super) use self::connection::{Lease, PooledConnection, Purpose};
pub(super) use self::error::{ConnectError, innermost_message};
pub(super) use self::pool::Pool;
pub(super) use self::request::{CallError, StreamService, USER_AGENT_VALUE, reports_unprocessed};
pub(crate) use self::start_tls::tls_settings;
pub(crate) use self::tls::ClientTls;
pub(super) use self::unary::unary;

/// Carries the calls to one Agent.
#[derive(Clone)]
pub(super) enum AgentTransport {
    /// Connections of the client's own.
    Own(Arc<Pool>),
    /// A channel of the user's.
    Ready(Channel),
}
