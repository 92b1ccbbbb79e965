//! The settings of a client of real Agents, as the builder checked them.

use std::fmt;
#[cfg(feature = "tls")]
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Uri;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use super::breaker::BreakerConfig;
use super::call::LONGEST;

/// Everything the builder found to be in order.
pub(crate) struct RemoteConfig {
    pub(crate) target: Target,
    /// Marked sensitive by the builder.
    pub(crate) api_key: Option<MetadataValue<Ascii>>,
    /// `None` is no limit.
    pub(crate) check_timeout: Option<Duration>,
    /// How much longer than its budget a check waits for the answer.
    pub(crate) check_grace: Duration,
    /// Bounds ends, exports and cache calls; `None` is no limit for cache calls.
    pub(crate) end_timeout: Option<Duration>,
    pub(crate) breaker: BreakerConfig,
    #[cfg(feature = "gzip")]
    pub(crate) gzip: bool,
    #[cfg(feature = "telemetry")]
    pub(crate) telemetry: bool,
}

/// Where the Agents are.
pub(crate) enum Target {
    /// Connections of our own.
    Connect(Connect),
    /// A channel of the user's.
    Ready(Channel),
}

/// How to make connections.
pub(crate) struct Connect {
    /// Scheme and authority of each Agent.
    pub(crate) uris: Vec<Uri>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) connect_timeout: Duration,
    pub(crate) keep_alive: Option<KeepAlive>,
    pub(crate) connections: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeepAlive {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
}

/// What TLS needs; the builder has parsed it once.
#[cfg(feature = "tls")]
#[derive(Default)]
pub(crate) struct Tls {
    /// PEM; the system's roots when there is none.
    pub(crate) ca: Option<Vec<u8>>,
    /// PEM, certificate and key.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) server_name: Option<String>,
    /// Made by the first connection, with the system's roots where they are needed.
    pub(crate) config: OnceLock<Arc<tokio_rustls::rustls::ClientConfig>>,
}

impl RemoteConfig {
    /// The connections of an Agent, unless they are somebody else's.
    pub(super) const fn connect(&self) -> Option<&Connect> {
        match &self.target {
            Target::Connect(connect) => Some(connect),
            Target::Ready(_) => None,
        }
    }

    /// The timeout of calls in the background. It never is too long to be added to the time.
    pub(super) fn background_timeout(&self) -> Duration {
        let timeout = self.end_timeout.unwrap_or(Duration::from_secs(60));
        timeout.min(LONGEST)
    }
}

/// Shows the addresses; never key, certificates or identity.
impl fmt::Debug for RemoteConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("RemoteConfig");
        match &self.target {
            Target::Connect(connect) => f.field("uris", &connect.uris),
            Target::Ready(_) => f.field("uris", &"a ready-made channel"),
        };
        f.finish_non_exhaustive()
    }
}
