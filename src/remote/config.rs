//! The validated settings of a client of real Agents.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use super::breaker::BreakerConfig;
use super::transport::ClientTls;

/// The longest timeout. `grpc-timeout` has too few digits for more than some thousand years, and
/// the clock must not overflow.
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The settings of a client, as validated by the builder.
pub(crate) struct RemoteConfig {
    pub(crate) target: RemoteTarget,
    /// Marked sensitive by the builder.
    pub(crate) api_key: Option<MetadataValue<Ascii>>,
    /// `None` means no limit.
    pub(crate) check_timeout: Option<Duration>,
    /// How much longer than its budget a check waits for the answer.
    pub(crate) check_grace: Duration,
    /// The timeout of ends, exports and cache calls. With `None`, cache calls have no limit.
    pub(crate) end_timeout: Option<Duration>,
    pub(crate) breaker: BreakerConfig,
    /// The encoding of requests and responses on the wire.
    pub(crate) compression: Option<CompressionEncoding>,
    /// Whether spans are sent, if they can be.
    pub(crate) telemetry: bool,
}

/// Where the connections to the Agents come from.
pub(crate) enum RemoteTarget {
    /// The client makes its own connections.
    Connect(ConnectConfig),
    /// The user provides the channel.
    Ready(Channel),
}

/// How to connect to the Agents.
pub(crate) struct ConnectConfig {
    /// Scheme and authority of each Agent.
    pub(crate) uris: Vec<Uri>,
    pub(crate) tls: Option<Arc<ClientTls>>,
    pub(crate) connect_timeout: Duration,
    pub(crate) keep_alive: Option<KeepAlive>,
    pub(crate) connections: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeepAlive {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
}

impl RemoteConfig {
    /// Returns how to connect, or `None` if the user provided the channel.
    pub(super) const fn connect(&self) -> Option<&ConnectConfig> {
        match &self.target {
            RemoteTarget::Connect(connect) => Some(connect),
            RemoteTarget::Ready(_) => None,
        }
    }

    /// Returns the timeout of background calls. It is short enough to be added to any time.
    pub(super) fn background_timeout(&self) -> Duration {
        let timeout = self.end_timeout.unwrap_or(Duration::from_secs(60));
        timeout.min(MAX_TIMEOUT)
    }
}

/// Shows the addresses, and never the key, certificates or identity.
impl fmt::Debug for RemoteConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("RemoteConfig");
        match &self.target {
            RemoteTarget::Connect(connect) => f.field("uris", &connect.uris),
            RemoteTarget::Ready(_) => f.field("uris", &"a ready-made channel"),
        };
        f.finish_non_exhaustive()
    }
}
