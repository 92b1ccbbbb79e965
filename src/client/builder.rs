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
use self::error::{MAX_CONNECTIONS, Problem};
use super::{ApertureClient, CHECK_TIMEOUT};
#[cfg(feature = "tls")]
use crate::flow::Cause;
#[cfg(feature = "tls")]
use crate::remote::ClientTls;
use crate::remote::{BreakerConfig, ConnectConfig, KeepAlive, Remote, RemoteConfig, RemoteTarget};

/// Covers 20 ms each way, and a client whose two cores are saturated.
const CHECK_GRACE: Duration = Duration::from_millis(800);

/// Describes a client of a real Agent; made by [`ApertureClient::builder`].
///
/// Only an address is needed. The connection uses TLS and trusts the system's roots unless told
/// otherwise; building does no I/O and needs no runtime.
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
/// # When the Agent is away
///
/// The connection is made by the first flow and, once lost, by the next flow that needs it.
/// Meanwhile flows are [unreachable](crate::FlowDecision::Unreachable), after the check timeout
/// and its grace at the latest. An Agent that goes on not answering is [given up](Self::breaker):
/// flows are then unreachable at once, and it is asked again within a second of its return. On
/// Linux a connection whose bytes are not acknowledged for ten seconds is closed, so that the loss
/// of a host is noticed without keep-alive.
///
/// # Connections
///
/// The client makes HTTP/2 connections of its own, with TLS by rustls. Checks leave one in eight
/// of a connection's streams free, two to 16 of them, for the ends of flows, for spans and for
/// probes. Before checks would use those, the client opens further connections, up to 64 for each
/// Agent and runtime; beyond that, checks wait for a stream within their budget. A connection that
/// was opened for lack of streams closes after 30 s without a call. An Agent that allows a single
/// stream on a connection gets no such room.
///
/// The end of a flow goes out on the connection of its check while that is open, because behind a
/// virtual address another connection may lead to another Agent.
///
/// # Runtimes
///
/// Flows need a tokio runtime with its I/O and time drivers on. A client may be used in several
/// runtimes, one after the other or at once; each has connections of its own.
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

    /// The Agent's address: `host:port`, with an IPv6 host in brackets. `http://` in front means
    /// [insecure](Self::insecure), `https://` secure; with either, the port may be left out.
    ///
    /// It takes the place of what was set before.
    pub fn address(self, address: impl Into<String>) -> Self {
        self.addresses([address])
    }

    /// The addresses of several Agents of one cluster, up to 64, which share their limits. All are
    /// secure or none is; TLS settings and [connections](Self::connections) are for each.
    ///
    /// A check goes to the less busy of two that are drawn from those that answer. Another Agent is
    /// asked, within the same budget, only where the first has certainly decided nothing:
    ///
    /// - no connection could be made, or no stream was free,
    /// - the request was not sent, the Agent refused its stream (`REFUSED_STREAM`), or the stream is
    ///   above the last one that the Agent's GOAWAY names (RFC 9113, sections 6.8 and 8.7),
    /// - the Agent refuses the client: `UNAUTHENTICATED`, `PERMISSION_DENIED`, `UNIMPLEMENTED`.
    ///
    /// Any other error may follow a decision, so the flow is unreachable. An Agent that answers
    /// errors gets fewer checks while another one decides: one every 100 ms at first, and one a
    /// second when it goes on. It is not given up, because it answers.
    ///
    /// The end of a flow goes to the Agent that let it in or, while that one does not answer, to
    /// another, as do spans and changes to caches.
    ///
    /// It takes the place of what was set before.
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

    /// Uses a channel of your own instead of connections of the client's: address, TLS,
    /// connections, keep-alive and the connect timeout are then the channel's. The other settings
    /// apply, except the [grace](Self::check_grace).
    ///
    /// A tonic `Channel` enforces `grpc-timeout` itself and drops the call when the budget ends. A
    /// check on it gets no grace: an answer that arrives after the budget is lost and the flow is
    /// unreachable. On a channel the ends of flows and probes share all streams with checks, so that
    /// they may wait behind checks that a scheduler holds. Prefer [`address`](Self::address) where
    /// you can.
    ///
    /// The channel must outlive the runtimes the client is used in.
    pub fn channel(mut self, channel: Channel) -> Self {
        self.channel = Some(channel);
        self
    }

    /// The API key, sent as `x-api-key` with every call, secure or not; an empty one is none.
    /// It is never logged or shown.
    pub fn api_key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// `true` uses plaintext instead of TLS, for Agents on the same host or in the same mesh. The
    /// default is `false`.
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = Some(insecure);
        self
    }

    /// Trusts these PEM certificates instead of the system's roots.
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// Shows the Agent this certificate, and proves it with this key; both PEM.
    pub fn client_identity(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// The name that the Agent's certificate must have, if not the address's host.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets how long a connection may take to be made, TLS included; 1 s by default. A check waits
    /// for it within its own [budget](Self::check_timeout). [`build`](Self::build) refuses zero.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the budget of a check, connecting included; 200 ms by default. A flow may set
    /// [its own](crate::FlowParams::check_timeout).
    ///
    /// The client sends the budget as `grpc-timeout`, and the Agent holds a flow in a scheduler's
    /// queue no longer than that. The client waits for the answer one
    /// [grace](Self::check_grace) longer, so that the answer to a flow that waited out its budget
    /// still counts. A request therefore waits at most the budget plus the grace: 1 s by
    /// default. Where the process itself stalled meanwhile, the client looks for an answer in the
    /// socket before it gives up, for as long as the stall took and at most 500 ms.
    ///
    /// Zero sets no limit: a check then waits until the Agent answers or the connection breaks.
    pub fn check_timeout(mut self, timeout: Duration) -> Self {
        self.check_timeout = timeout;
        self
    }

    /// Sets how much longer than the [budget](Self::check_timeout) a check waits for its answer;
    /// 800 ms by default.
    ///
    /// An Agent answers a queued check shortly before the budget ends. The grace covers the way
    /// back and a busy client: the default is enough for a link of 20 ms each way and a client
    /// whose two cores are saturated. An answer that arrives within the grace counts like any
    /// other. Without it the flow is [unreachable](crate::FlowDecision::Unreachable) and
    /// [runs](crate::FailureMode), whatever the Agent decided.
    ///
    /// Zero ends the wait with the budget. Choose it only when a late answer is worth less than a
    /// flow that runs without a decision. A [channel](Self::channel) of your own gets no grace.
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

    /// Sets how long the end of a flow, an export of spans, or a cache call may take; 5 s by
    /// default. Zero means no limit for cache calls and a minute for the others.
    pub fn end_timeout(mut self, timeout: Duration) -> Self {
        self.end_timeout = timeout;
        self
    }

    /// Pings the Agent every `interval` while calls are under way and nothing comes from it, and
    /// closes the connection when no answer comes within `timeout`. Off by default; 10 s and 5 s are
    /// good values. [`build`](Self::build) refuses zero for either.
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keep_alive = Some(KeepAlive { interval, timeout });
        self
    }

    /// Sets how many connections the calls to each Agent are spread over; 1 by default, at most 64.
    /// More than one helps when thousands of checks a second keep one connection's task busy. The
    /// client opens [further ones](Self#connections) by itself when streams run out.
    /// [`build`](Self::build) refuses zero.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Sets when the client gives up an Agent: after `failures` checks in a row without an answer
    /// and a health probe that fails as well. The default is 5; zero never gives up. Checks are then
    /// unreachable at once, unless another Agent answers.
    ///
    /// A check goes without an answer when its timeout passes, when no connection can be made,
    /// and when the Agent says `DEADLINE_EXCEEDED`, `CANCELLED` or `UNAVAILABLE`. A connection that
    /// breaks counts once for all checks on it. Any other status is an answer, and so is a timeout
    /// if other checks were answered meanwhile. A check without a timeout counts only when it fails.
    ///
    /// Failed checks alone prove nothing: they may wait in a scheduler's queue, have a short timeout,
    /// or belong to a process that stalled. After the last of them the client calls
    /// `grpc.health.v1.Health/Check` on the connection of the checks and on a new one, each for up to
    /// one second. Any answer keeps the Agent, `UNIMPLEMENTED` included; `UNAVAILABLE` and
    /// `DEADLINE_EXCEEDED` are none. When only the new connection brings an answer, it replaces the
    /// old one.
    ///
    /// While an Agent is given up, the probe alone decides about its return. A flow, an end or a
    /// change to a cache that looks for an Agent starts one every `probe_interval`, 1 s by default,
    /// in the background. A millisecond is the shortest interval and a day the longest;
    /// [`build`](Self::build) refuses zero.
    ///
    /// The cost: an Agent that answers probes but no checks is never given up. Each flow then waits
    /// for the [check timeout](Self::check_timeout) and its grace before it is unreachable.
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

    /// Compresses what is sent, and takes compressed answers. Off by default.
    #[cfg(feature = "gzip")]
    pub fn gzip(mut self, gzip: bool) -> Self {
        self.gzip = gzip;
        self
    }

    /// Whether a span is sent for each answered flow, from which the Agent makes the metrics that
    /// policies and dashboards look at. On by default; without the feature `telemetry` there are
    /// no spans.
    pub fn telemetry(mut self, telemetry: bool) -> Self {
        self.telemetry = telemetry;
        self
    }

    /// Builds the client; does no I/O.
    ///
    /// # Errors
    ///
    /// When there is no address or it makes no sense, when a key or certificate cannot be read, or
    /// when settings contradict each other. The error names the value, unless it is secret.
    pub fn build(self) -> Result<ApertureClient, BuildError> {
        if self.breaker.probe_interval.is_zero() {
            return Err(BuildError(Problem::Zero("probe interval")));
        }
        let api_key = self.api_key.as_deref().map(metadata).transpose()?.flatten();
        let config = RemoteConfig {
            api_key,
            check_timeout: some(self.check_timeout),
            check_grace: self.check_grace,
            end_timeout: some(self.end_timeout),
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
            return Err(BuildError(Problem::Connections(self.connections)));
        }
        for (name, duration) in [
            ("connect timeout", Some(self.connect_timeout)),
            ("keep-alive interval", self.keep_alive.map(|k| k.interval)),
            ("keep-alive timeout", self.keep_alive.map(|k| k.timeout)),
        ] {
            if duration.is_some_and(|duration| duration.is_zero()) {
                return Err(BuildError(Problem::Zero(name)));
            }
        }
        let (uris, secure) = parse_all(&self.addresses, self.insecure)?;
        if !secure && (self.ca.is_some() || self.identity.is_some() || self.server_name.is_some()) {
            return Err(BuildError(Problem::TlsUnused));
        }
        #[cfg(not(feature = "tls"))]
        if secure {
            return Err(BuildError(Problem::NoTls(self.addresses.join(", "))));
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

/// Shows what is not secret: neither the API key nor the client's identity.
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

fn some(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

fn metadata(key: &[u8]) -> Result<Option<MetadataValue<Ascii>>, BuildError> {
    if key.is_empty() {
        return Ok(None);
    }
    // HTTP/2 would carry other bytes, gRPC metadata is visible ASCII and blanks.
    if !key.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(BuildError(Problem::ApiKey));
    }
    let mut value = MetadataValue::try_from(key).map_err(|_| BuildError(Problem::ApiKey))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Reads certificates and key once, so that a bad one is found here and not by the first flow.
#[cfg(feature = "tls")]
fn check_tls(uri: &Uri, tls: &ClientTls) -> Result<(), BuildError> {
    let try_out = |what, tls: &ClientTls| {
        tls.check(uri)
            .map_err(|error| BuildError(Problem::Tls(what, Cause::innermost(error))))
    };
    if tls.ca.is_some() {
        let ca = ClientTls {
            ca: tls.ca.clone(),
            ..ClientTls::default()
        };
        try_out("CA certificate", &ca)?;
    }
    if tls.identity.is_some() {
        let identity = ClientTls {
            identity: tls.identity.clone(),
            ..ClientTls::default()
        };
        try_out("client identity", &identity)?;
    }
    try_out("server name", tls)
}

#[cfg(test)]
mod tests;
