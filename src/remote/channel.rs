use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::config::Connect;
use super::link::{Attempt, Link, Open};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// HTTP/2 counts frames that nobody has read yet against a budget that grows with the window; a
/// small window ends a connection with hundreds of small answers under way.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Calls that were given up and may still be answered. Late answers to calls that HTTP/2 no longer
/// remembers would count as errors of the Agent's and close the connection.
const REMEMBERED_RESETS: usize = 4096;

/// How long sent bytes may go without an acknowledgement before the connection is given up: a host
/// that vanished would otherwise hold it for a quarter of an hour.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

impl Connect {
    /// Channels that connect when first used. Must be called inside a runtime, which runs their
    /// background tasks.
    pub(super) fn channels(&self, endpoint: &Endpoint, link: &Arc<Link>) -> Box<[Channel]> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(self.connect_timeout));
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        http.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let connector = Watched {
            http,
            link: Arc::clone(link),
        };
        (0..self.connections.max(1))
            .map(|_| endpoint.connect_with_connector_lazy(connector.clone()))
            .collect()
    }

    /// Reads the system's roots, where TLS trusts them.
    pub(super) fn endpoint(&self, uri: &Uri) -> Result<Endpoint, BoxError> {
        let mut endpoint = Endpoint::from(uri.clone())
            .user_agent(concat!("tower-aperture/", env!("CARGO_PKG_VERSION")))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_max_concurrent_reset_streams(REMEMBERED_RESETS)
            .http2_max_local_error_reset_streams(None);
        if let Some(keep_alive) = self.keep_alive {
            endpoint = endpoint
                .http2_keep_alive_interval(keep_alive.interval)
                .keep_alive_timeout(keep_alive.timeout);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.config(true))?;
        }
        Ok(endpoint)
    }
}

/// Connects as tonic does, and tells [`Link`].
#[derive(Clone)]
struct Watched {
    http: HttpConnector,
    link: Arc<Link>,
}

impl Service<Uri> for Watched {
    type Response = TokioIo<WatchedStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let attempt = Attempt::start(&self.link);
        let connecting = self.http.call(uri);
        Box::pin(async move {
            let stream = connecting.await?.into_inner();
            Ok(TokioIo::new(WatchedStream {
                stream,
                _open: attempt.succeeded(),
            }))
        })
    }
}

#[derive(Debug)]
struct WatchedStream {
    stream: TcpStream,
    _open: Open,
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
