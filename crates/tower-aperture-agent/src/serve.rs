//! The listener, which accepts connections until shutdown.

use std::pin::pin;
use std::time::Duration;
use std::{env, error, fmt, io};

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

/// Whether the system has no file descriptor, socket or memory left, so that accepting may succeed
/// later.
fn is_resource_shortage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory
        || error
            .raw_os_error()
            .is_some_and(|number| shortage_numbers(env::consts::FAMILY).contains(&number))
}

/// Returns the error numbers of a shortage on a family of systems. The standard library has no
/// names for them, and the same number means something else on another family.
fn shortage_numbers(family: &str) -> &'static [i32] {
    match family {
        // WSAEMFILE and WSAENOBUFS.
        "windows" => &[10_024, 10_055],
        // ENFILE, EMFILE, and ENOBUFS of BSD and macOS, and of Linux.
        _ => &[23, 24, 55, 105],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_known_by_the_numbers_of_its_system() {
        for (family, number, shortage) in [
            ("unix", 23, true),
            ("unix", 24, true),
            ("unix", 55, true),
            ("unix", 105, true),
            // EBADF and EINVAL: the listener is broken.
            ("unix", 9, false),
            ("unix", 22, false),
            ("unix", 10_024, false),
            ("windows", 10_024, true),
            ("windows", 10_055, true),
            // ERROR_BAD_LENGTH and ERROR_DEV_NOT_EXIST.
            ("windows", 24, false),
            ("windows", 55, false),
            // WSAENOTSOCK: the listener is broken.
            ("windows", 10_038, false),
        ] {
            assert_eq!(
                shortage_numbers(family).contains(&number),
                shortage,
                "{number} on {family}"
            );
        }
    }

    #[test]
    fn the_listener_survives_a_shortage_and_no_other_error_of_its_own() {
        for number in shortage_numbers(env::consts::FAMILY) {
            let error = io::Error::from_raw_os_error(*number);
            assert!(is_resource_shortage(&error), "{error}");
            assert!(!is_connection_error(&error), "{error}");
        }
        assert!(is_resource_shortage(&io::ErrorKind::OutOfMemory.into()));
        for kind in [io::ErrorKind::InvalidInput, io::ErrorKind::Other] {
            assert!(!is_resource_shortage(&kind.into()), "{kind}");
        }
        let aborted = io::ErrorKind::ConnectionAborted.into();
        assert!(is_connection_error(&aborted) && !is_resource_shortage(&aborted));
    }
}
