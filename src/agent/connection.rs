//! One connection: its protocol, its bounds and its end.

use std::error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::budget::Overdue;
use super::metrics::Node;
use super::{AgentService, ERRORS_PER_STREAM, HEADER_BYTES, HTTP1_BYTES, Tls};

const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(20);
/// After that, a connection is closed whatever goes on there.
pub(super) const LAST_CALLS: Duration = Duration::from_secs(30);
/// An idle caller has so long to agree to the end of its connection.
const FAREWELL: Duration = Duration::from_secs(5);

/// Counts a connection, until it is dropped.
struct Open(prometheus_client::metrics::gauge::Gauge);

impl Open {
    fn new(node: &Node) -> Self {
        node.connections.inc();
        Self(node.connections.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One connection.
pub(super) struct Connection {
    service: AgentService,
    _open: Open,
}

impl Connection {
    pub(super) fn new(service: &AgentService) -> Self {
        Self {
            _open: Open::new(&service.agent().inner.metrics.node),
            service: service.for_connection(),
        }
    }

    pub(super) async fn run(self, stream: TcpStream, tls: Option<Tls>) {
        // Without it, an answer waits for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else {
            return self.talk(stream).await;
        };
        match timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => self.talk(stream).await,
            Ok(Err(error)) => log_event!(debug, "a TLS handshake failed: {error}"),
            Err(_) => log_event!(debug, "a TLS handshake took too long"),
        }
    }

    async fn talk(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let agent = self.service.agent().clone();
        let limits = agent.inner.limits;
        let account = Arc::clone(self.service.account());
        let streams = limits.streams as usize;
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .max_buf_size(HTTP1_BYTES);
        server
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            // A client that stalls cancels all its calls at once, some before they were taken.
            // Each holds its headers until then.
            .max_pending_accept_reset_streams(streams)
            .max_local_error_reset_streams(streams.saturating_mul(ERRORS_PER_STREAM))
            .max_header_list_size(HEADER_BYTES)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG);
        let service = TowerToHyperService::new(self.service);
        let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
        let mut patience = LAST_CALLS;
        {
            let ending = pin!(agent.inner.drain.begun());
            let overdue = account.overdue(limits.idle, limits.answer);
            tokio::select! {
                over = &mut connection => return note(over),
                () = ending => {}
                overdue = overdue => match overdue {
                    Overdue::Idle => {
                        agent.inner.metrics.node.idle_closed.inc();
                        patience = FAREWELL;
                    }
                    // What was not taken is dropped with it.
                    Overdue::Untaken => return agent.inner.untaken(),
                },
            }
        }
        connection.as_mut().graceful_shutdown();
        let mut over = timeout(patience, &mut connection).await;
        if over.is_err() && account.calls() > 0 && patience < LAST_CALLS {
            // A call came in the meantime.
            over = timeout(LAST_CALLS - patience, connection).await;
        }
        match over {
            Ok(over) => note(over),
            Err(_) => log_event!(debug, "a connection would not end and was closed"),
        }
    }
}

fn note(over: Result<(), Box<dyn error::Error + Send + Sync>>) {
    if let Err(error) = over {
        log_event!(debug, "a connection failed: {error}");
    }
}
