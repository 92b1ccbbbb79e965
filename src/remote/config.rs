use std::fmt;
use std::time::Duration;

use http::Uri;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use super::breaker::BreakerConfig;

/// Everything the builder found to be in order.
pub(crate) struct RemoteConfig {
    pub(crate) target: Target,
    /// Marked sensitive by the builder.
    pub(crate) api_key: Option<MetadataValue<Ascii>>,
    /// `None` is no limit.
    pub(crate) check_timeout: Option<Duration>,
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
    /// A channel somebody else looks after.
    Ready(Channel),
}

/// How to make connections.
pub(crate) struct Connect {
    /// Scheme and authority of each Agent.
    pub(crate) uris: Vec<Uri>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Tls>,
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
#[derive(Clone, Default)]
pub(crate) struct Tls {
    /// PEM; the system's roots when there is none.
    pub(crate) ca: Option<Vec<u8>>,
    /// PEM, certificate and key.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) server_name: Option<String>,
}

#[cfg(feature = "tls")]
impl Tls {
    /// Without the system's roots this reads no file, which the builder relies on.
    pub(crate) fn config(&self, system_roots: bool) -> tonic::transport::ClientTlsConfig {
        use tonic::transport::{Certificate, ClientTlsConfig, Identity};

        let mut config = ClientTlsConfig::new();
        match &self.ca {
            Some(pem) => config = config.ca_certificate(Certificate::from_pem(pem)),
            None if system_roots => config = config.with_native_roots(),
            None => {}
        }
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        config
    }
}

impl RemoteConfig {
    /// The connections of an Agent, unless they are somebody else's.
    pub(super) const fn connect(&self) -> Option<&Connect> {
        match &self.target {
            Target::Connect(connect) => Some(connect),
            Target::Ready(_) => None,
        }
    }

    /// The deadline of what runs in the background, which must not run for ever.
    pub(super) fn background_timeout(&self) -> Duration {
        self.end_timeout.unwrap_or(Duration::from_secs(60))
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
