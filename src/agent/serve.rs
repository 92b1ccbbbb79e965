//! The listener: takes connections until shutdown.

use std::io;
use std::pin::pin;
use std::time::Duration;
use std::{error, fmt};

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::connection::{Connection, LAST_CALLS};
use super::{Agent, Tls};

/// The system has no room for a connection: it may have some soon.
const BREATH: Duration = Duration::from_millis(100);

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
                        self.inner.lacks(&error);
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
            let connection = Connection::new(&service);
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
