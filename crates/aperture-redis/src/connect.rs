//! Opens connections: TCP, TLS or a Unix socket, the login, and the scripts.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, SendError};
use redis::{AsyncConnectionConfig, Pipeline, PushInfo, RedisConnectionInfo, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::address::Address;
use crate::freed::FreedSlots;
use crate::scripts::Script;

/// Pipelines that a connection takes before its sender waits.
const PIPELINES: usize = 64;

/// The settings by which connections are opened.
pub(crate) struct Connector {
    pub(crate) login: RedisConnectionInfo,
    pub(crate) timeout: Duration,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::tls::Tls>,
}

/// An open connection with the scripts loaded.
pub(crate) struct Opened {
    pub(crate) connection: MultiplexedConnection,
    /// Reads and writes the socket; ends when the connection is closed.
    pub(crate) serve: Serve,
    /// The hashes of the scripts, by their index.
    pub(crate) hashes: Vec<String>,
}

/// Boxed once for each connection.
pub(crate) type Serve = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Why a connection was not opened, without credentials.
#[derive(Debug)]
pub(crate) struct ConnectError(String);

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<redis::RedisError> for ConnectError {
    fn from(error: redis::RedisError) -> Self {
        Self(error.to_string())
    }
}

impl Connector {
    /// Opens a connection, within the timeout.
    pub(crate) async fn open(
        &self,
        address: &Address,
        freed: &Arc<FreedSlots>,
    ) -> Result<Opened, ConnectError> {
        match tokio::time::timeout(self.timeout, self.try_open(address, freed)).await {
            Ok(opened) => opened,
            Err(_) => Err(ConnectError(format!("no connection in {:?}", self.timeout))),
        }
    }

    async fn try_open(
        &self,
        address: &Address,
        freed: &Arc<FreedSlots>,
    ) -> Result<Opened, ConnectError> {
        match address {
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                #[cfg(feature = "tls")]
                if let Some(tls) = &self.tls {
                    return self.log_in(tls.connect(host, stream).await?, freed).await;
                }
                self.log_in(stream, freed).await
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await?;
                self.log_in(stream, freed).await
            }
            #[cfg(not(unix))]
            Address::Unix(_) => Err(ConnectError("this system has no Unix sockets".to_owned())),
        }
    }

    async fn log_in(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        freed: &Arc<FreedSlots>,
    ) -> Result<Opened, ConnectError> {
        let freed = Arc::clone(freed);
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINES)
            .set_push_sender(move |push: PushInfo| {
                freed.receive(&push);
                Ok::<(), SendError>(())
            });
        let opened = MultiplexedConnection::new_with_config(&self.login, stream, config).await?;
        let (mut connection, serve) = opened;
        let mut serve: Serve = Box::pin(serve);
        let mut load = Pipeline::new();
        for script in Script::ALL {
            load.cmd("SCRIPT").arg("LOAD").arg(script.text());
        }
        let loading = connection.send_packed_commands(&load, 0, Script::ALL.len());
        let loaded = tokio::select! {
            loaded = loading => loaded?,
            () = &mut serve => return Err(ConnectError("the server closed the connection".to_owned())),
        };
        let hashes = loaded.into_iter().map(hash).collect::<Result<_, _>>()?;
        Ok(Opened {
            connection,
            serve,
            hashes,
        })
    }
}

fn hash(loaded: Value) -> Result<String, ConnectError> {
    match loaded {
        Value::BulkString(hash) => String::from_utf8(hash)
            .map_err(|_| ConnectError("the hash of a script is no text".to_owned())),
        Value::SimpleString(hash) => Ok(hash),
        Value::ServerError(error) => Err(ConnectError(error.to_string())),
        _ => Err(ConnectError("SCRIPT LOAD returned no hash".to_owned())),
    }
}
