//! One connection: its protocol, its limits and its shutdown.

use std::error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::call_executor::CallExecutor;
use super::limits::{HTTP1_BUFFER_BYTES, MAX_HEADER_BYTES, RESETS_PER_STREAM};
use super::memory_budget::CloseReason;
use super::metrics::ProcessSeries;
use super::{AgentService, Tls};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long running calls may take after shutdown begins, before the connection is closed.
pub(super) const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);
/// How long an idle connection may stay open after its graceful shutdown has been announced.
const IDLE_CLOSE_GRACE: Duration = Duration::from_secs(5);

/// Counts an open connection, until it is dropped.
struct OpenConnection(prometheus_client::metrics::gauge::Gauge);

impl OpenConnection {
    fn new(process: &ProcessSeries) -> Self {
        process.connections.inc();
        Self(process.connections.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One connection of the agent.
pub(super) struct AgentConnection {
    service: AgentService,
    _open: OpenConnection,
}

impl AgentConnection {
    pub(super) fn new(service: &AgentService) -> Self {
        Self {
            _open: OpenConnection::new(&service.agent().inner.metrics.process),
            service: service.for_connection(),
        }
    }

    pub(super) async fn run(self, stream: TcpStream, tls: Option<Tls>) {
        // Otherwise a response may wait for the acknowledgement of the previous one.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else {
            return self.serve_stream(stream).await;
        };
        match timeout(HANDSHAKE_TIMEOUT, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => self.serve_stream(stream).await,
            Ok(Err(error)) => log_event!(debug, "a TLS handshake failed: {error}"),
            Err(_) => log_event!(debug, "a TLS handshake took too long"),
        }
    }

    async fn serve_stream(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let agent = self.service.agent().clone();
        let limits = agent.inner.limits;
        let account = Arc::clone(self.service.account());
        let streams = limits.streams as usize;
        let executor = CallExecutor::default();
        let mut server = auto::Builder::new(executor.clone());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_TIMEOUT)
            .max_buf_size(HTTP1_BUFFER_BYTES);
        server
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            // A client that stalls cancels all its calls at once, some before they were accepted.
            // Each of those holds its headers until then.
            .max_pending_accept_reset_streams(streams)
            .max_local_error_reset_streams(streams.saturating_mul(RESETS_PER_STREAM))
            .max_header_list_size(MAX_HEADER_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        let service = TowerToHyperService::new(self.service);
        let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
        let mut grace = SHUTDOWN_GRACE;
        {
            let shutdown = pin!(agent.inner.drain.begun());
            let close = account.wait_for_close(limits.idle, limits.answer);
            tokio::select! {
                result = executor.drive(connection.as_mut()) => return log_result(result),
                () = shutdown => {}
                reason = close => match reason {
                    CloseReason::Idle => {
                        agent.inner.metrics.process.idle_closed.inc();
                        grace = IDLE_CLOSE_GRACE;
                    }
                    // Dropping the connection drops the unread responses.
                    CloseReason::UnreadResponse => return agent.inner.response_unread(),
                },
            }
        }
        connection.as_mut().graceful_shutdown();
        let mut result = timeout(grace, executor.drive(connection.as_mut())).await;
        if result.is_err() && account.calls() > 0 && grace < SHUTDOWN_GRACE {
            // A call arrived in the meantime.
            result = timeout(SHUTDOWN_GRACE - grace, executor.drive(connection)).await;
        }
        match result {
            Ok(result) => log_result(result),
            Err(_) => log_event!(debug, "a connection did not end in time and was closed"),
        }
    }
}

/// Logs how a connection ended.
fn log_result(result: Result<(), Box<dyn error::Error + Send + Sync>>) {
    if let Err(error) = result {
        log_event!(debug, "a connection failed: {error}");
    }
}
