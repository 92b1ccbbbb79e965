//! Connections.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use std::{error, fmt, io};

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::Agent;

/// Why an agent stopped serving, or never began.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// The listener does not work any more.
    Listen(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => write!(f, "the listener failed: {error}"),
        }
    }
}

impl error::Error for ServeError {}

impl Agent {
    /// Serves plaintext, gRPC and JSON on the same port, until `shutdown` is ready; then it
    /// ends calmly.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let mut shutdown = pin!(shutdown);
        let mut connections = JoinSet::new();
        loop {
            let stream = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let _ = stream.set_nodelay(true);
            let service = TowerToHyperService::new(self.service());
            let limits = self.inner.limits;
            let ending = self.inner.drain.begun();
            connections.spawn(async move {
                let mut server = auto::Builder::new(TokioExecutor::new());
                server.http1().timer(TokioTimer::new());
                server
                    .http2()
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(limits.streams);
                let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
                tokio::select! {
                    _ = &mut connection => return,
                    () = ending => {}
                }
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            });
        }
        drop(listener);
        self.shutdown();
        while connections.join_next().await.is_some() {}
        Ok(())
    }
}
