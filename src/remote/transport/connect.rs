//! Makes connections to one Agent: TCP, then TLS where it is asked for, then HTTP/2.

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

use super::wire::{Io, Spoken, Wire, WiredStream};
use super::{BoxError, ConnectError};
use crate::remote::call::LONGEST;
#[cfg(feature = "tls")]
use crate::remote::config::Tls;
use crate::remote::config::{Connect, KeepAlive};
#[cfg(feature = "tls")]
use crate::remote::failure::innermost;
use crate::remote::link::{Attempt, Link, Open};

/// HTTP/2 counts frames that nobody has read yet against a budget that grows with the window; a
/// small window ends a connection with hundreds of small answers under way.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Calls that were given up and may still be answered. Late answers to calls that HTTP/2 no longer
/// remembers would count as errors of the Agent's and close the connection.
const REMEMBERED_RESETS: usize = 4096;

/// Bytes of header fields in one answer.
const MAX_HEADERS: u32 = 16 * 1024;

/// Stands for a limit of streams until the peer's first SETTINGS frame brings the real one, which
/// has 32 bits or is `usize::MAX`.
const NO_SETTINGS_YET: usize = usize::MAX - 1;

/// How long sent bytes may go without an acknowledgement before the connection is given up: a host
/// that vanished would otherwise hold it for a quarter of an hour.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Makes connections to one Agent.
pub(in crate::remote) struct Connector {
    uri: Uri,
    http: HttpConnector,
    #[cfg(feature = "tls")]
    tls: Option<Arc<Tls>>,
    timeout: Duration,
    keep_alive: Option<KeepAlive>,
    /// The connections that are made before any of them runs out of streams.
    usual: usize,
    link: Arc<Link>,
}

/// A connection that has just been made. Somebody must poll `h2` for anything to happen on it.
pub(super) struct Connected {
    pub(super) sender: h2::client::SendRequest<Bytes>,
    pub(super) h2: h2::client::Connection<Io, Bytes>,
    pub(super) wire: Arc<Wire>,
    pub(super) open: Open,
}

impl Connector {
    pub(in crate::remote) fn new(uri: Uri, connect: &Connect, link: Arc<Link>) -> Self {
        let timeout = connect.connect_timeout.min(LONGEST);
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        // Shared out among the addresses of a host, so that the second is tried in time.
        http.set_connect_timeout(Some(timeout));
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        http.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        Self {
            uri,
            http,
            #[cfg(feature = "tls")]
            tls: connect.tls.clone(),
            timeout,
            keep_alive: connect.keep_alive,
            usual: connect.connections.max(1),
            link,
        }
    }

    pub(super) const fn uri(&self) -> &Uri {
        &self.uri
    }

    pub(super) const fn usual(&self) -> usize {
        self.usual
    }

    pub(super) const fn keep_alive(&self) -> Option<KeepAlive> {
        self.keep_alive
    }

    /// Connects, within the connect timeout. The connection counts as made once the peer's
    /// SETTINGS have come: nothing that a caller sends, and no API key, goes to a peer that does
    /// not speak HTTP/2.
    pub(super) async fn connect(&self) -> Result<Connected, ConnectError> {
        let attempt = Attempt::start(&self.link);
        let deadline = Instant::now() + self.timeout;
        let late = |what: &str| {
            let timeout = self.timeout;
            ConnectError::new(format!("no {what} within {timeout:?}"))
        };

        let connecting = self.http.clone().call(self.uri.clone());
        let stream = timeout_at(deadline, connecting)
            .await
            .map_err(|_| late("connection"))?
            .map_err(ConnectError::new)?
            .into_inner();
        let (stream, wire) = WiredStream::new(stream);

        #[cfg(feature = "tls")]
        let io = match &self.tls {
            None => Io::Plain(stream),
            Some(tls) => {
                let stream = timeout_at(deadline, tls.connect(&self.uri, stream))
                    .await
                    .map_err(|_| late("TLS handshake"))?
                    .map_err(ConnectError::new)?
                    .map_err(|error| handshake_failed(&wire, &error))?;
                super::tls::check_protocol(&stream).map_err(ConnectError::new)?;
                Io::Tls(Box::new(stream))
            }
        };
        #[cfg(not(feature = "tls"))]
        let io = Io::Plain(stream);

        let plaintext = matches!(io, Io::Plain(_));
        let (sender, h2) = match timeout_at(deadline, begin_http2(io)).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return Err(no_http2(plaintext, &wire, &*error)),
            Err(_) if wire.spoken() == Spoken::Nothing => return Err(late("HTTP/2 settings")),
            Err(_) => return Err(no_http2(plaintext, &wire, &"it sends no settings")),
        };
        Ok(Connected {
            sender,
            h2,
            wire,
            open: attempt.succeeded(),
        })
    }
}

/// Says that the handshake failed, and names a peer that speaks plaintext.
#[cfg(feature = "tls")]
fn handshake_failed(wire: &Wire, error: &std::io::Error) -> ConnectError {
    ConnectError::new(match wire.spoken() {
        Spoken::Http1 | Spoken::Other => format!(
            "the client speaks TLS and the agent's port plaintext: \
             use `http://` or `insecure(true)` for it ({error})"
        ),
        Spoken::Nothing => format!(
            "the agent's port closed the connection during the TLS handshake; \
             if it expects plaintext, use `http://` or `insecure(true)` ({error})"
        ),
        Spoken::Tls => format!("the TLS handshake failed: {}", innermost(error)),
    })
}

/// Says that HTTP/2 did not begin, and names a peer that expects TLS.
fn no_http2(plaintext: bool, wire: &Wire, error: &dyn std::fmt::Display) -> ConnectError {
    ConnectError::new(match wire.spoken() {
        Spoken::Tls if plaintext => format!(
            "the client speaks plaintext and the agent's port TLS: \
             use `https://` or `insecure(false)` for it ({error})"
        ),
        // Some TLS servers answer plaintext with an HTTP/1 error.
        Spoken::Http1 if plaintext => format!(
            "the agent's port answers in HTTP/1, not HTTP/2; \
             if it expects TLS, use `https://` or `insecure(false)` ({error})"
        ),
        Spoken::Nothing if plaintext => format!(
            "the agent's port closed the connection before HTTP/2 began; \
             if it expects TLS, use `https://` or `insecure(false)` ({error})"
        ),
        _ => format!("the agent's port does not speak HTTP/2: {error}"),
    })
}

/// Sends the preface and waits for the peer's SETTINGS.
async fn begin_http2(
    io: Io,
) -> Result<
    (
        h2::client::SendRequest<Bytes>,
        h2::client::Connection<Io, Bytes>,
    ),
    BoxError,
> {
    let (sender, mut h2) = h2::client::Builder::new()
        .initial_max_send_streams(NO_SETTINGS_YET)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .max_local_error_reset_streams(None)
        .max_header_list_size(MAX_HEADERS)
        .enable_push(false)
        .handshake(io)
        .await?;
    poll_fn(|cx| match Pin::new(&mut h2).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err("the connection was closed".into())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(BoxError::from(error))),
        Poll::Pending if h2.max_concurrent_send_streams() == NO_SETTINGS_YET => Poll::Pending,
        Poll::Pending => Poll::Ready(Ok(())),
    })
    .await?;
    Ok((sender, h2))
}
