//! The builder of a client that connects to an Agent.

mod address;
mod env;
mod error;

use std::fmt;
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "tls")]
use http::Uri;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

pub use self::error::BuildError;

use self::address::parse_all;
use self::error::{BuildProblem, MAX_CONNECTIONS};
use super::{ApertureClient, CHECK_TIMEOUT};
#[cfg(feature = "tls")]
use crate::flow::Cause;
#[cfg(feature = "tls")]
use crate::remote::ClientTls;
use crate::remote::{BreakerConfig, ConnectConfig, KeepAlive, Remote, RemoteConfig, RemoteTarget};

/// The default grace. It covers a link of 20 ms each way and a client whose two cores are
/// saturated.
const CHECK_GRACE: Duration = Duration::from_millis(800);

/// Builds a client that connects to an Agent; made by [`ApertureClient::builder`].
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
    #[cfg(feature = "gzip")]
    gzip: bool,
    telemetry: bool,
}

impl ApertureClientBuilder {
    pub(super) fn new() -> Self {
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
            #[cfg(feature = "gzip")]
            gzip: false,
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

    /// Sets whether to use plaintext instead of TLS, for Agents on the same host or in the same mesh.
    /// The default is `false`.
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = Some(insecure);
        self
    }

    /// Trusts these PEM certificates instead of the system's roots.
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// Sets the client certificate and its private key for mutual TLS; both are PEM.
    pub fn client_identity(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Sets the name that the Agent's certificate must have. The default is the host of the address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets how long connecting may take, including TLS; 1 s by default. A check waits for the
    /// connection within its own [budget](Self::check_timeout). [`build`](Self::build) refuses zero.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the budget of a check, including the time to connect; 200 ms by default. A flow may set
    /// [its own](crate::FlowParams::check_timeout).
    ///
    /// The client sends the budget as `grpc-timeout`, and the Agent keeps a flow in a scheduler's
    /// queue no longer than that. The client waits for the response one [grace](Self::check_grace)
    /// longer, so that the response to a flow that waited for its entire budget still counts. A
    /// request therefore waits at most the budget plus the grace: 1 s by default. If the process
    /// itself stalled meanwhile, the client reads a response from the socket before the check times
    /// out, for as long as the stall took and at most 500 ms.
    ///
    /// Zero means no limit: a check then waits until the Agent answers or the connection breaks.
    pub fn check_timeout(mut self, timeout: Duration) -> Self {
        self.check_timeout = timeout;
        self
    }

    /// Sets how much longer than the [budget](Self::check_timeout) a check waits for its response;
    /// 800 ms by default.
    ///
    /// An Agent answers a queued check shortly before the budget ends. The grace covers the way back
    /// and a busy client: the default is enough for a link of 20 ms each way and a client whose two
    /// cores are saturated. A response within the grace counts like any other. A flow whose response
    /// arrives later is [unreachable](crate::FlowDecision::Unreachable) and
    /// [runs](crate::FailureMode), even if the Agent rejected it.
    ///
    /// Zero ends the wait with the budget. Choose it only if a late response is worth less than a
    /// flow that runs without a decision. A `channel` of your own gets no grace.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_aperture::ApertureClient;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = ApertureClient::builder()
    ///     .address("agent.far.example:8089")
    ///     .insecure(true)
    ///     .check_timeout(Duration::from_millis(100))
    ///     .check_grace(Duration::from_secs(1)) // no check takes longer than 1.1 s
    ///     .build()?;
    /// # let _ = client;
    /// # Ok(()) }
    /// ```
    pub fn check_grace(mut self, grace: Duration) -> Self {
        self.check_grace = grace;
        self
    }

    /// Sets how long the end of a flow, an export of spans or a cache call may take; 5 s by default.
    /// Zero means no limit for cache calls and a minute for the others.
    pub fn end_timeout(mut self, timeout: Duration) -> Self {
        self.end_timeout = timeout;
        self
    }

    /// Enables keep-alive: the client pings the Agent every `interval` while calls are under way and
    /// the Agent sends no data, and closes the connection if no response arrives within `timeout`.
    /// Off by default; 10 s and 5 s are good values. [`build`](Self::build) refuses zero for either.
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keep_alive = Some(KeepAlive { interval, timeout });
        self
    }

    /// Sets the number of connections over which the calls to each Agent are distributed; 1 by
    /// default, at most 64. More than one helps if thousands of checks a second keep one connection's
    /// task busy. The client opens [further ones](Self#connections) itself when streams run out.
    /// [`build`](Self::build) refuses zero.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Sets when the client gives up an Agent: after `failures` unanswered checks in a row and a
    /// failed health probe. The default is 5; zero disables the breaker. While an Agent is given up,
    /// flows are unreachable at once, unless another Agent answers.
    ///
    /// A check is unanswered if its timeout passes, if no connection can be made, or if the Agent
    /// returns `DEADLINE_EXCEEDED`, `CANCELLED` or `UNAVAILABLE`. A broken connection counts once for
    /// all checks on it. Any other status is an answer, and so is a timeout if other checks were
    /// answered meanwhile. A check without a timeout counts only if it fails.
    ///
    /// Failed checks alone are no proof: they may wait in a scheduler's queue, have a short timeout,
    /// or belong to a process that stalled. After the last of them the client calls
    /// `grpc.health.v1.Health/Check` on the connection of the checks and on a new one, each for up to
    /// one second. Any answer keeps the Agent, including `UNIMPLEMENTED`; `UNAVAILABLE` and
    /// `DEADLINE_EXCEEDED` are not answers. If only the new connection gets an answer, it replaces
    /// the old one.
    ///
    /// While an Agent is given up, only probes decide about its return. A flow, an end or a change to
    /// a cache that needs an Agent starts one in the background every `probe_interval`, 1 s by
    /// default. The shortest interval is a millisecond and the longest a day;
    /// [`build`](Self::build) refuses zero.
    ///
    /// An Agent that answers probes but not checks is never given up. Each flow then waits for the
    /// [check timeout](Self::check_timeout) and its grace before it is unreachable.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_aperture::ApertureClient;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = ApertureClient::builder()
    ///     .address("localhost:8089")
    ///     .insecure(true)
    ///     .breaker(3, Duration::from_millis(500))
    ///     .build()?;
    /// # let _ = client;
    /// # Ok(()) }
    /// ```
    pub fn breaker(mut self, failures: u32, probe_interval: Duration) -> Self {
        self.breaker = BreakerConfig {
            failures,
            probe_interval,
        };
        self
    }

    /// Sets whether requests are compressed and compressed responses are accepted. Off by default.
    #[cfg(feature = "gzip")]
    pub fn gzip(mut self, gzip: bool) -> Self {
        self.gzip = gzip;
        self
    }

    /// Sets whether the client sends a span for each accepted or rejected flow, from which the Agent
    /// makes the metrics for policies and dashboards. On by default; without the feature `telemetry`
    /// no spans are sent.
    pub fn telemetry(mut self, telemetry: bool) -> Self {
        self.telemetry = telemetry;
        self
    }

    /// Builds the client. Does no I/O.
    ///
    /// # Errors
    ///
    /// Returns an error if an address is missing or invalid, a key or certificate cannot be read, or
    /// settings contradict each other. The error names the value, unless it is secret.
    pub fn build(self) -> Result<ApertureClient, BuildError> {
        if self.breaker.probe_interval.is_zero() {
            return Err(BuildError(BuildProblem::Zero("probe interval")));
        }
        let api_key = self.api_key.as_deref().map(metadata).transpose()?.flatten();
        let config = RemoteConfig {
            api_key,
            check_timeout: unless_zero(self.check_timeout),
            check_grace: self.check_grace,
            end_timeout: unless_zero(self.end_timeout),
            breaker: self.breaker,
            #[cfg(feature = "gzip")]
            gzip: self.gzip,
            #[cfg(feature = "telemetry")]
            telemetry: self.telemetry,
            target: self.target()?,
        };
        Ok(ApertureClient::from_remote(Remote::new(config)))
    }

    fn target(self) -> Result<RemoteTarget, BuildError> {
        if let Some(channel) = self.channel {
            return Ok(RemoteTarget::Ready(channel));
        }
        if self.connections == 0 || self.connections > MAX_CONNECTIONS {
            return Err(BuildError(BuildProblem::Connections(self.connections)));
        }
        for (name, duration) in [
            ("connect timeout", Some(self.connect_timeout)),
            ("keep-alive interval", self.keep_alive.map(|k| k.interval)),
            ("keep-alive timeout", self.keep_alive.map(|k| k.timeout)),
        ] {
            if duration.is_some_and(|duration| duration.is_zero()) {
                return Err(BuildError(BuildProblem::Zero(name)));
            }
        }
        let (uris, secure) = parse_all(&self.addresses, self.insecure)?;
        if !secure && (self.ca.is_some() || self.identity.is_some() || self.server_name.is_some()) {
            return Err(BuildError(BuildProblem::TlsUnused));
        }
        #[cfg(not(feature = "tls"))]
        if secure {
            return Err(BuildError(BuildProblem::NoTls(self.addresses.join(", "))));
        }
        Ok(RemoteTarget::Connect(ConnectConfig {
            #[cfg(feature = "tls")]
            tls: if secure {
                let tls = ClientTls {
                    ca: self.ca,
                    identity: self.identity,
                    server_name: self.server_name,
                    ..ClientTls::default()
                };
                for uri in &uris {
                    check_tls(uri, &tls)?;
                }
                Some(Arc::new(tls))
            } else {
                None
            },
            uris,
            connect_timeout: self.connect_timeout,
            keep_alive: self.keep_alive,
            connections: self.connections,
        }))
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

fn unless_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

fn metadata(key: &[u8]) -> Result<Option<MetadataValue<Ascii>>, BuildError> {
    if key.is_empty() {
        return Ok(None);
    }
    // HTTP/2 allows other bytes, but gRPC metadata only visible ASCII and blanks.
    if !key.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(BuildError(BuildProblem::ApiKey));
    }
    let mut value = MetadataValue::try_from(key).map_err(|_| BuildError(BuildProblem::ApiKey))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Reads the certificates and the key once, so that an invalid one is an error of the builder and
/// not of the first flow.
#[cfg(feature = "tls")]
fn check_tls(uri: &Uri, tls: &ClientTls) -> Result<(), BuildError> {
    let check = |setting, tls: &ClientTls| {
        tls.check(uri)
            .map_err(|error| BuildError(BuildProblem::Tls(setting, Cause::innermost(error))))
    };
    if tls.ca.is_some() {
        let ca = ClientTls {
            ca: tls.ca.clone(),
            ..ClientTls::default()
        };
        check("CA certificate", &ca)?;
    }
    if tls.identity.is_some() {
        let identity = ClientTls {
            identity: tls.identity.clone(),
            ..ClientTls::default()
        };
        check("client identity", &identity)?;
    }
    check("server name", tls)
}

#[cfg(test)]
mod tests;
