//! Connects to one Agent: TCP, then TLS if configured, then HTTP/2.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use super::ClientTls;
use super::counted_stream::{CountedStream, PeerProtocol, PlainOrTlsStream, WireStats};
use super::error::{BoxError, ConnectError};
use super::start_tls::Tls;
use crate::remote::config::{ConnectConfig, KeepAlive, MAX_TIMEOUT};
use crate::remote::connection_tracker::{ConnectAttempt, ConnectionTracker, TrackedConnection};

/// The windows are large because h2 counts unread frames against a budget that grows with the
/// window. A small window ends a connection with hundreds of small responses in flight.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// The number of cancelled calls whose late answers are ignored. Late answers to calls that h2 no
/// longer remembers would count as errors of the Agent and close the connection.
const MAX_REMEMBERED_RESETS: usize = 4096;

/// The most bytes of header fields in one response.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// The limit of streams before the peer's first SETTINGS frame. It differs from every real limit,
/// which has 32 bits or is `usize::MAX`.
const LIMIT_BEFORE_SETTINGS: usize = usize::MAX - 1;

/// Connects to one Agent.
pub(in crate::remote) struct Connector {
    uri: Uri,
    http: HttpConnector,
    tls: Option<Arc<ClientTls>>,
    timeout: Duration,
    keep_alive: Option<KeepAlive>,
    /// The number of connections that are made even while each has free streams.
    base_connections: usize,
    tracker: Arc<ConnectionTracker>,
}

/// A connection that has just been made. It makes progress only while `h2` is polled.
pub(super) struct NewConnection {
    pub(super) sender: h2::client::SendRequest<Bytes>,
    pub(super) h2: h2::client::Connection<PlainOrTlsStream, Bytes>,
    pub(super) wire_stats: Arc<WireStats>,
    pub(super) tracked_connection: TrackedConnection,
}

impl Connector {
    pub(in crate::remote) fn new(
        uri: Uri,
        connect: &ConnectConfig,
        tracker: Arc<ConnectionTracker>,
    ) -> Self {
        let timeout = connect.connect_timeout.min(MAX_TIMEOUT);
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        // The timeout is divided among the addresses of a host, so that the second one is tried in
        // time.
        http.set_connect_timeout(Some(timeout));
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        {
            /// How long sent bytes may stay unacknowledged before the connection is closed. Without
            /// it, a host that vanished would hold the connection for a quarter of an hour.
            const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
            http.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        }
        Self {
            uri,
            http,
            tls: connect.tls.clone(),
            timeout,
            keep_alive: connect.keep_alive,
            base_connections: connect.connections.max(1),
            tracker,
        }
    }

    pub(super) const fn uri(&self) -> &Uri {
        &self.uri
    }

    pub(super) const fn base_connections(&self) -> usize {
        self.base_connections
    }

    pub(super) const fn keep_alive(&self) -> Option<KeepAlive> {
        self.keep_alive
    }

    /// Connects within the connect timeout. The connection counts as made once the peer's SETTINGS
    /// have arrived, so that no request and no API key is sent to a peer that does not use HTTP/2.
    pub(super) async fn connect(&self) -> Result<NewConnection, ConnectError> {
        let attempt = ConnectAttempt::start(&self.tracker);
        let deadline = Instant::now() + self.timeout;
        let timed_out = |what: &str| {
            let timeout = self.timeout;
            ConnectError::new(format!("no {what} within {timeout:?}"))
        };

        let connecting = self.http.clone().call(self.uri.clone());
        let stream = timeout_at(deadline, connecting)
            .await
            .map_err(|_| timed_out("connection"))?
            .map_err(ConnectError::new)?
            .into_inner();
        let (stream, wire_stats) = CountedStream::new(stream);

        let io = match &self.tls {
            None => PlainOrTlsStream::Plain(stream),
            Some(tls) => {
                let started = timeout_at(deadline, tls.start(&self.uri, stream, &wire_stats));
                let stream = started.await.map_err(|_| timed_out("TLS handshake"))??;
                PlainOrTlsStream::Tls(Box::new(stream))
            }
        };

        let plaintext = matches!(io, PlainOrTlsStream::Plain(_));
        let (sender, h2) = match timeout_at(deadline, start_http2(io)).await {
            Ok(Ok(started)) => started,
            Ok(Err(error)) => return Err(http2_error(plaintext, &wire_stats, &*error)),
            Err(_) if wire_stats.peer_protocol() == PeerProtocol::NoBytes => {
                return Err(timed_out("HTTP/2 settings"));
            }
            Err(_) => {
                return Err(http2_error(
                    plaintext,
                    &wire_stats,
                    &"the peer sent no settings",
                ));
            }
        };
        Ok(NewConnection {
            sender,
            h2,
            wire_stats,
            tracked_connection: attempt.succeeded(),
        })
    }
}

/// Returns the error of a failed start of HTTP/2, with advice if the peer expects TLS.
fn http2_error(
    plaintext: bool,
    wire_stats: &WireStats,
    error: &dyn std::fmt::Display,
) -> ConnectError {
    ConnectError::new(match wire_stats.peer_protocol() {
        PeerProtocol::Tls if plaintext => format!(
            "the client speaks plaintext and the agent's port TLS: \
             use `https://` or `insecure(false)` for it ({error})"
        ),
        // Some TLS servers respond to plaintext with an HTTP/1 error.
        PeerProtocol::Http1 if plaintext => format!(
            "the agent's port answers in HTTP/1, not HTTP/2; \
             if it expects TLS, use `https://` or `insecure(false)` ({error})"
        ),
        PeerProtocol::NoBytes if plaintext => format!(
            "the agent's port closed the connection before HTTP/2 began; \
             if it expects TLS, use `https://` or `insecure(false)` ({error})"
        ),
        _ => format!("the agent's port does not speak HTTP/2: {error}"),
    })
}

/// Sends the preface and waits for the peer's SETTINGS.
async fn start_http2(
    io: PlainOrTlsStream,
) -> Result<
    (
        h2::client::SendRequest<Bytes>,
        h2::client::Connection<PlainOrTlsStream, Bytes>,
    ),
    BoxError,
> {
    let (sender, mut h2) = h2::client::Builder::new()
        .initial_max_send_streams(LIMIT_BEFORE_SETTINGS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_reset_streams(MAX_REMEMBERED_RESETS)
        .max_local_error_reset_streams(None)
        .max_header_list_size(MAX_HEADER_BYTES)
        .enable_push(false)
        .handshake(io)
        .await?;
    poll_fn(|cx| match Pin::new(&mut h2).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err("the connection was closed".into())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(BoxError::from(error))),
        Poll::Pending if h2.max_concurrent_send_streams() == LIMIT_BEFORE_SETTINGS => Poll::Pending,
        Poll::Pending => Poll::Ready(Ok(())),
    })
    .await?;
    Ok((sender, h2))
}
