//! The client's own connections to Agents.
//!
//! Each Agent has a [`Pool`] in each runtime. A pool tracks how many streams are in use on each
//! connection and how many the peer allows. Checks leave some streams free for the ends of flows
//! and for probes, and the pool opens further connections before checks would need those.

mod connect;
mod connection;
mod counted_stream;
mod driver;
mod pool;
mod request;
#[cfg(feature = "tls")]
mod tls;

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use tonic::transport::Channel;

pub(super) use self::connect::Connector;
pub(super) use self::connection::PooledConnection;
pub(super) use self::pool::Pool;
pub(super) use self::request::{CallError, StreamService, reports_unprocessed};

type BoxError = Box<dyn Error + Send + Sync>;

/// Carries the calls to one Agent.
#[derive(Clone)]
pub(super) enum AgentTransport {
    /// Connections of the client's own.
    Own(Arc<Pool>),
    /// A channel of the user's.
    Ready(Channel),
}

/// The purpose of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Checks and cache calls. Only the callers bound their number.
    Flow,
    /// Ends, spans and probes. They must not wait behind checks.
    Background,
}

/// Why no connection could be made.
#[derive(Clone, Debug)]
pub(super) struct ConnectError(Arc<BoxError>);

impl ConnectError {
    fn new(error: impl Into<BoxError>) -> Self {
        Self(Arc::new(error.into()))
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no connection to the agent")
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&**self.0)
    }
}
