//! Connections.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{error, fmt};

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower_service::Service;

use super::metrics::Node;
use super::{Agent, AgentService, Tls};

const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);
/// A connection on which nothing was ever asked is ended.
const FIRST_CALL: Duration = Duration::from_secs(60);
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(20);
/// After that, a connection is closed whatever goes on there.
const LAST_CALLS: Duration = Duration::from_secs(30);
/// The system has no room for a connection: it may have some soon.
const BREATH: Duration = Duration::from_millis(100);
const MAX_HEADER_BYTES: u32 = 64 << 10;

/// Why a node stopped serving.
///
/// See [`Agent::serve`] for an example.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// The listener does not work any more.
    Listen(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(_) => f.write_str("the listener does not work any more"),
        }
    }
}

impl error::Error for ServeError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Listen(error) => Some(error),
        }
    }
}

impl Agent {
    /// Serves in plaintext, gRPC and HTTP on one port, until `shutdown` is ready or
    /// [`Agent::shutdown`] is called; then it ends [calmly](crate::agent#the-end), for 30 s at most.
    ///
    /// Dropping the future closes all connections at once.
    ///
    /// ```
    /// use tower_aperture::Engine;
    /// use tower_aperture::agent::{Agent, ServeError};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let agent = Agent::builder(Engine::builder().build()?).build();
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    /// agent.shutdown();
    /// let ended: Result<(), ServeError> = agent.serve(listener, std::future::pending()).await;
    /// assert!(ended.is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// When the listener does not work any more. A connection that fails is no error, and too few
    /// file descriptors only make it wait.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        self.serve_with(listener, None, shutdown).await
    }

    /// Like [`serve`](Self::serve), with TLS; HTTP/1.1 as well as HTTP/2.
    ///
    /// # Errors
    ///
    /// As [`serve`](Self::serve). A handshake that fails is none.
    pub async fn serve_tls(
        &self,
        listener: TcpListener,
        tls: Tls,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        self.serve_with(listener, Some(tls), shutdown).await
    }

    async fn serve_with(
        &self,
        listener: TcpListener,
        tls: Option<Tls>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let mut shutdown = pin!(shutdown);
        let mut told = pin!(self.inner.drain.begun());
        let mut connections = JoinSet::new();
        let service = self.service();
        let result = loop {
            let stream = tokio::select! {
                () = &mut shutdown => break Ok(()),
                () = &mut told => break Ok(()),
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) if is_of_one(&error) => continue,
                    Err(error) if is_lack(&error) => {
                        log_event!(warn, "a connection cannot be taken: {error}");
                        sleep(BREATH).await;
                        continue;
                    }
                    Err(error) => break Err(ServeError::Listen(error)),
                },
            };
            if connections.len() >= self.inner.limits.connections {
                self.inner.turned_away();
                continue;
            }
            let connection = Connection {
                service: service.clone(),
                asked: Arc::default(),
                _open: Open::new(&self.inner.metrics.node),
            };
            connections.spawn(connection.run(stream, tls.clone()));
        };
        drop(listener);
        self.shutdown();
        let ends = async { while connections.join_next().await.is_some() {} };
        if timeout(LAST_CALLS, ends).await.is_err() {
            log_event!(warn, "connections are closed while calls are under way");
        }
        result
    }
}

/// The connection failed that was to be taken.
fn is_of_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

/// No file descriptor or no memory is left: `ENFILE`, `EMFILE`, `ENOBUFS` and `ENOMEM`, which the
/// standard library has no names for.
fn is_lack(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory
        || matches!(error.raw_os_error(), Some(23 | 24 | 55 | 105))
}

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
struct Connection {
    service: AgentService,
    /// Whether there was a call.
    asked: Arc<AtomicBool>,
    _open: Open,
}

impl Connection {
    async fn run(self, stream: TcpStream, tls: Option<Tls>) {
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
        let limits = self.service.agent().inner.limits;
        let ending = self.service.agent().inner.drain.begun();
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS);
        server
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(MAX_HEADER_BYTES)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG);
        let asked = Arc::clone(&self.asked);
        let service = TowerToHyperService::new(Noted {
            service: self.service,
            asked: self.asked,
        });
        let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
        let idle = async {
            sleep(FIRST_CALL).await;
            if asked.load(Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            over = &mut connection => return note(over),
            () = ending => {}
            () = idle => {}
        }
        connection.as_mut().graceful_shutdown();
        match timeout(LAST_CALLS, connection).await {
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

/// Notes that something was asked.
#[derive(Clone)]
struct Noted {
    service: AgentService,
    asked: Arc<AtomicBool>,
}

impl<R> Service<R> for Noted
where
    AgentService: Service<R>,
{
    type Response = <AgentService as Service<R>>::Response;
    type Error = <AgentService as Service<R>>::Error;
    type Future = <AgentService as Service<R>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.asked.store(true, Relaxed);
        self.service.call(request)
    }
}
