//! The builder of a client that connects to an Agent.

mod address;
mod build;
mod checks;
mod connection;
mod env;
mod error;

use std::fmt;
use std::time::Duration;

use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;

pub use self::error::BuildError;

use super::shared::{ApertureClient, CHECK_TIMEOUT};
use crate::remote::{BreakerConfig, KeepAlive};

/// The default grace. It covers a link of 20 ms each way and a client whose two cores are
/// saturated.
const CHECK_GRACE: Duration = Duration::from_millis(800);

/// Builds a client that connects to an Agent; made by [`ApertureClient::builder`](crate::ApertureClient::builder).
///
/// Only an address is required. By default, the connection uses TLS and trusts the system's roots.
/// Building does no I/O and needs no runtime.
///
/// ```
/// use std::time::Duration;
/// use tower_aperture::ApertureClient;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = ApertureClient::builder()
///     .address("localhost:8089")
///     .insecure(true)
///     .api_key("secret")
///     .check_timeout(Duration::from_millis(100))
///     .build()?;
/// # let _ = client;
/// # Ok(()) }
/// ```
///
/// # Unreachable Agents
///
/// The first flow makes the connection; after a loss, the next flow that needs it connects again.
/// Until then flows are [unreachable](crate::FlowDecision::Unreachable), after the check timeout
/// and its grace at the latest. An Agent that stays unresponsive is
/// [given up](Self::breaker): flows are then unreachable at once, and checks resume within a second
/// of the Agent's return. On Linux, a connection whose bytes are not acknowledged for ten seconds is
/// closed, so that the loss of a host is detected without keep-alive.
///
/// # Connections
///
/// The client makes its own HTTP/2 connections, with TLS by rustls. Checks leave one in eight of a
/// connection's streams free, two to 16 of them, for ends of flows, spans and probes. Before checks
/// would use those, the client opens further connections, up to 64 for each Agent and runtime;
/// beyond that, checks wait for a stream within their budget. A connection that was opened for lack
/// of streams closes after 30 s without a call. If an Agent allows only a single stream on a
/// connection, no stream is reserved.
///
/// The client sends the end of a flow on the connection of its check while that is open, because
/// behind a virtual address another connection may lead to another Agent.
///
/// # Runtimes
///
/// Flows need a tokio runtime with its I/O and time drivers enabled. A client may be used in several
/// runtimes, one after the other or at once; each runtime has its own connections.
pub struct ApertureClientBuilder {
    addresses: Vec<String>,
    channel: Option<Channel>,
    api_key: Option<Vec<u8>>,
    insecure: Option<bool>,
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
    connect_timeout: Duration,
    check_timeout: Duration,
    check_grace: Duration,
    end_timeout: Duration,
    keep_alive: Option<KeepAlive>,
    connections: usize,
    breaker: BreakerConfig,
    compression: Option<CompressionEncoding>,
    telemetry: bool,
}

impl ApertureClient {
    /// Returns a builder for a client that connects to an Agent.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_aperture::ApertureClient;
    ///
    /// let client = ApertureClient::builder()
    ///     .address("localhost:8089")
    ///     .insecure(true)
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn builder() -> ApertureClientBuilder {
        ApertureClientBuilder::new()
    }
}

impl ApertureClientBuilder {
    fn new() -> Self {
        Self {
            addresses: Vec::new(),
            channel: None,
            api_key: None,
            insecure: None,
            ca: None,
            identity: None,
            server_name: None,
            connect_timeout: Duration::from_secs(1),
            check_timeout: CHECK_TIMEOUT,
            check_grace: CHECK_GRACE,
            end_timeout: Duration::from_secs(5),
            keep_alive: None,
            connections: 1,
            breaker: BreakerConfig::default(),
            compression: None,
            telemetry: true,
        }
    }

    /// Sets the Agent's address: `host:port`, with an IPv6 host in brackets. A prefix `http://` means
    /// [insecure](Self::insecure), `https://` secure; with either, the port is optional.
    ///
    /// It replaces all addresses that were set before.
    pub fn address(self, address: impl Into<String>) -> Self {
        self.addresses([address])
    }

    /// Sets the addresses of several Agents of one cluster, up to 64, which share their limits.
    /// Either all are secure or none is; TLS settings and [connections](Self::connections) apply to
    /// each.
    ///
    /// The client draws two of the Agents that answer and sends the check to the less busy one. It
    /// sends the check to another Agent, within the same budget, only if the first has certainly made
    /// no decision:
    ///
    /// - no connection could be made, or no stream was free,
    /// - the request was not sent, the Agent refused its stream (`REFUSED_STREAM`), or the stream is
    ///   above the last one that the Agent's GOAWAY names (RFC 9113, sections 6.8 and 8.7),
    /// - the Agent refuses the client: `UNAUTHENTICATED`, `PERMISSION_DENIED`, `UNIMPLEMENTED`.
    ///
    /// After any other error the Agent may have made a decision, so the flow is unreachable. An Agent
    /// that returns errors gets fewer checks while another one decides: one every 100 ms at first,
    /// and one a second if the errors continue. It is not given up, because it answers.
    ///
    /// The end of a flow goes to the Agent that accepted it or, while that one does not answer, to
    /// another one. The same holds for spans and changes to caches.
    ///
    /// It replaces all addresses that were set before.
    ///
    /// ```
    /// use tower_aperture::ApertureClient;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = ApertureClient::builder()
    ///     .addresses(["agent-0:8089", "agent-1:8089"])
    ///     .insecure(true)
    ///     .build()?;
    /// assert_eq!(client.agents().len(), 2);
    /// # Ok(()) }
    /// ```
    pub fn addresses<A: Into<String>>(mut self, addresses: impl IntoIterator<Item = A>) -> Self {
        self.addresses = addresses.into_iter().map(Into::into).collect();
        self
    }

    /// Uses your own channel instead of the client's connections. Address, TLS, connections,
    /// keep-alive and connect timeout are then those of the channel. The other settings apply,
    /// except the [grace](Self::check_grace).
    ///
    /// A tonic `Channel` enforces `grpc-timeout` itself and drops the call when the budget ends. A
    /// check on it gets no grace: a response after the budget is lost and the flow is unreachable. On
    /// a channel, ends of flows and probes share all streams with checks, so they may wait behind
    /// checks that a scheduler queues. Prefer [`address`](Self::address) if possible.
    ///
    /// The channel must outlive the runtimes in which the client is used.
    ///
    /// The method is part of the feature `raw-protocol`, because `Channel` follows the version of
    /// `tonic`.
    #[cfg(feature = "raw-protocol")]
    pub fn channel(mut self, channel: Channel) -> Self {
        self.channel = Some(channel);
        self
    }

    /// Sets the API key. The client sends it as `x-api-key` with every call, secure or not, and never
    /// logs or shows it. An empty key means none.
    pub fn api_key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Sets whether requests are compressed and compressed responses are accepted. Off by default.
    #[cfg(feature = "gzip")]
    pub fn gzip(mut self, gzip: bool) -> Self {
        self.compression = gzip.then_some(CompressionEncoding::Gzip);
        self
    }

    /// Sets whether the client sends a span for each accepted or rejected flow, from which the Agent
    /// makes the metrics for policies and dashboards. On by default; without the feature `telemetry`
    /// no spans are sent.
    pub fn telemetry(mut self, telemetry: bool) -> Self {
        self.telemetry = telemetry;
        self
    }
}

/// Leaves out the API key and the client's identity, which are secret.
impl fmt::Debug for ApertureClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApertureClientBuilder")
            .field("addresses", &self.addresses)
            .field("insecure", &self.insecure)
            .field("server_name", &self.server_name)
            .field("connect_timeout", &self.connect_timeout)
            .field("check_timeout", &self.check_timeout)
            .field("check_grace", &self.check_grace)
            .field("end_timeout", &self.end_timeout)
            .field("keep_alive", &self.keep_alive)
            .field("connections", &self.connections)
            .field("breaker", &self.breaker)
            .field("telemetry", &self.telemetry)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
