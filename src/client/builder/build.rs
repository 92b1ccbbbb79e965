//! Validates the settings and builds the client.

use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};

use super::ApertureClientBuilder;
use super::address::parse_all;
use super::error::{BuildError, BuildProblem, MAX_CONNECTIONS};
use crate::client::backend::RemoteBackend;
use crate::client::shared::ApertureClient;
use crate::remote::{ConnectConfig, Remote, RemoteConfig, RemoteTarget, tls_settings};

impl ApertureClientBuilder {
    /// Builds the client. Does no I/O.
    ///
    /// # Errors
    ///
    /// Returns an error if an address is missing or invalid, a key or certificate cannot be read, or
    /// settings contradict each other. The error names the value, unless it is secret.
    pub fn build(self) -> Result<ApertureClient, BuildError> {
        if self.breaker.probe_interval.is_zero() {
            return Err(BuildError(BuildProblem::Zero("probe interval")));
        }
        let api_key = self.api_key.as_deref().map(metadata).transpose()?.flatten();
        let config = RemoteConfig {
            api_key,
            check_timeout: unless_zero(self.check_timeout),
            check_grace: self.check_grace,
            end_timeout: unless_zero(self.end_timeout),
            breaker: self.breaker,
            compression: self.compression,
            telemetry: self.telemetry,
            target: self.target()?,
        };
        Ok(ApertureClient::with(RemoteBackend::new(Remote::new(
            config,
        ))))
    }

    fn target(self) -> Result<RemoteTarget, BuildError> {
        if let Some(channel) = self.channel {
            return Ok(RemoteTarget::Ready(channel));
        }
        if self.connections == 0 || self.connections > MAX_CONNECTIONS {
            return Err(BuildError(BuildProblem::Connections(self.connections)));
        }
        for (name, duration) in [
            ("connect timeout", Some(self.connect_timeout)),
            ("keep-alive interval", self.keep_alive.map(|k| k.interval)),
            ("keep-alive timeout", self.keep_alive.map(|k| k.timeout)),
        ] {
            if duration.is_some_and(|duration| duration.is_zero()) {
                return Err(BuildError(BuildProblem::Zero(name)));
            }
        }
        let (uris, secure) = parse_all(&self.addresses, self.insecure)?;
        if !secure && (self.ca.is_some() || self.identity.is_some() || self.server_name.is_some()) {
            return Err(BuildError(BuildProblem::TlsUnused));
        }
        let tls = if secure {
            let tls = tls_settings(self.ca, self.identity, self.server_name, &uris)
                .map_err(|(setting, cause)| BuildError(BuildProblem::Tls(setting, cause)))?;
            let no_tls = || BuildError(BuildProblem::NoTls(self.addresses.join(", ")));
            Some(Arc::new(tls.ok_or_else(no_tls)?))
        } else {
            None
        };
        Ok(RemoteTarget::Connect(ConnectConfig {
            tls,
            uris,
            connect_timeout: self.connect_timeout,
            keep_alive: self.keep_alive,
            connections: self.connections,
        }))
    }
}

fn unless_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

pub(super) fn metadata(key: &[u8]) -> Result<Option<MetadataValue<Ascii>>, BuildError> {
    if key.is_empty() {
        return Ok(None);
    }
    // HTTP/2 allows other bytes, but gRPC metadata only visible ASCII and blanks.
    if !key.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(BuildError(BuildProblem::ApiKey));
    }
    let mut value = MetadataValue::try_from(key).map_err(|_| BuildError(BuildProblem::ApiKey))?;
    value.set_sensitive(true);
    Ok(Some(value))
}
