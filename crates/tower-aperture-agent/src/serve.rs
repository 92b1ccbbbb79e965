//! The listener, which accepts connections until shutdown.

use std::io;
use std::pin::pin;
use std::time::Duration;
use std::{error, fmt};

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::connection::{AgentConnection, SHUTDOWN_GRACE};
use super::{Agent, Tls};

/// How long to wait before accepting again when the system lacks file descriptors or memory.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Why an agent stopped serving.
///
/// See [`Agent::serve`] for an example.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// The listener failed permanently.
    Listen(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(_) => f.write_str("the listener failed and accepts no more connections"),
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
    /// Serves gRPC and HTTP in plaintext on one port, until `shutdown` completes or
    /// [`Agent::shutdown`] is called. Then it shuts down [gracefully](crate#shutdown),
    /// within 30 s at most.
    ///
    /// Dropping the future closes all connections immediately.
    ///
    /// ```
    /// use tower_aperture::Engine;
    /// use tower_aperture_agent::{Agent, ServeError};
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
    /// Returns an error when the listener failed permanently. A connection that fails is not an
    /// error, and a lack of file descriptors only delays connections.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        self.serve_with(listener, None, shutdown).await
    }

    /// Like [`serve`](Self::serve), with TLS; HTTP/1.1 and HTTP/2.
    ///
    /// # Errors
    ///
    /// As for [`serve`](Self::serve). A handshake that fails is not an error.
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
        let mut shutdown_called = pin!(self.inner.drain.begun());
        let mut connections = JoinSet::new();
        let service = self.service();
        let result = loop {
            let stream = tokio::select! {
                () = &mut shutdown => break Ok(()),
                () = &mut shutdown_called => break Ok(()),
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) if is_connection_error(&error) => continue,
                    Err(error) if is_resource_shortage(&error) => {
                        self.inner.accept_failed(&error);
                        sleep(ACCEPT_RETRY_DELAY).await;
                        continue;
                    }
                    Err(error) => break Err(ServeError::Listen(error)),
                },
            };
            if connections.len() >= self.inner.limits.connections {
                self.inner.turned_away();
                continue;
            }
            let connection = AgentConnection::new(&service);
            connections.spawn(connection.run(stream, tls.clone()));
        };
        drop(listener);
        self.shutdown();
        let closed = async { while connections.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_GRACE, closed).await.is_err() {
            log_event!(warn, "connections are closed while calls are still running");
        }
        result
    }
}

/// Whether only the connection that was being accepted failed.
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

/// Whether the system has no file descriptor or memory left: `ENFILE`, `EMFILE`, `ENOBUFS` and
/// `ENOMEM`, for which the standard library has no names.
fn is_resource_shortage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory
        || matches!(error.raw_os_error(), Some(23 | 24 | 55 | 105))
}
