//! TLS connections to an Agent, with rustls.

use std::io;
use std::sync::{Arc, OnceLock};

use http::Uri;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::counted_stream::{CountedStream, PeerProtocol, WireStats};
use super::error::{BoxError, ConnectError, innermost_message};
use super::start_tls::Tls;
use crate::flow::Cause;

const HTTP_2: &[u8] = b"h2";

/// The settings of TLS, which the builder has parsed once to validate them.
#[derive(Default)]
pub(crate) struct ClientTls {
    /// PEM. The system's roots are used if this is `None`.
    ca: Option<Vec<u8>>,
    /// The certificate and the key, as PEM.
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
    /// Created by the first connection. It includes the system's roots if they are needed.
    config: OnceLock<Arc<ClientConfig>>,
}

impl ClientTls {
    /// Parses the certificates and the key. With `system_roots` unset it reads no file, which the
    /// builder relies on.
    fn client_config(&self, system_roots: bool) -> Result<ClientConfig, BoxError> {
        let provider = CryptoProvider::get_default().cloned();
        let provider = provider.unwrap_or_else(|| Arc::new(ring::default_provider()));
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(pem) => {
                let (added, _) = roots.add_parsable_certificates(certificates(pem)?);
                if added == 0 {
                    return Err("the PEM text contains no valid certificate".into());
                }
            }
            None if system_roots => {
                let found = rustls_native_certs::load_native_certs();
                let (added, _) = roots.add_parsable_certificates(found.certs);
                if added == 0 {
                    return Err("the system has no readable root certificates".into());
                }
            }
            None => {}
        }
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key)?;
                builder.with_client_auth_cert(certificates(certificate)?, key)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.push(HTTP_2.to_vec());
        Ok(config)
    }

    /// Returns the name that the Agent's certificate must have.
    fn certificate_name(&self, uri: &Uri) -> Result<ServerName<'static>, BoxError> {
        let name = match &self.server_name {
            Some(name) => name,
            None => uri.host().ok_or("the address has no host")?,
        };
        let address = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        Ok(ServerName::try_from(address.unwrap_or(name).to_owned())?)
    }

    /// Returns an error if the certificates, the key or the name cannot be used.
    fn check(&self, uri: &Uri) -> Result<(), BoxError> {
        self.certificate_name(uri)?;
        self.client_config(false).map(drop)
    }

    /// Returns the configuration that all connections share. If the system's roots are needed, the
    /// first call reads them on a blocking thread.
    async fn shared_config(self: &Arc<Self>) -> Result<Arc<ClientConfig>, BoxError> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let tls = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || tls.client_config(true));
        let config = Arc::new(read.await??);
        Ok(Arc::clone(self.config.get_or_init(|| config)))
    }

    /// Performs the TLS handshake. The outer error comes from the settings or the system of this
    /// client, the inner one from the handshake.
    async fn connect(
        self: &Arc<Self>,
        uri: &Uri,
        stream: CountedStream,
    ) -> Result<io::Result<TlsStream<CountedStream>>, BoxError> {
        let name = self.certificate_name(uri)?;
        let connector = TlsConnector::from(self.shared_config().await?);
        Ok(connector.connect(name, stream).await)
    }
}

impl Tls for ClientTls {
    type Stream = TlsStream<CountedStream>;

    /// Reads the certificates and the key once, so that an invalid one is an error of the builder
    /// and not of the first flow.
    fn new(
        ca: Option<Vec<u8>>,
        identity: Option<(Vec<u8>, Vec<u8>)>,
        server_name: Option<String>,
        uris: &[Uri],
    ) -> Result<Option<Self>, (&'static str, Cause)> {
        let tls = Self {
            ca,
            identity,
            server_name,
            config: OnceLock::new(),
        };
        for uri in uris {
            let check = |setting, tls: &Self| {
                tls.check(uri)
                    .map_err(|error| (setting, Cause::innermost(error)))
            };
            if tls.ca.is_some() {
                let ca = Self {
                    ca: tls.ca.clone(),
                    ..Self::default()
                };
                check("CA certificate", &ca)?;
            }
            if tls.identity.is_some() {
                let identity = Self {
                    identity: tls.identity.clone(),
                    ..Self::default()
                };
                check("client identity", &identity)?;
            }
            check("server name", &tls)?;
        }
        Ok(Some(tls))
    }

    async fn start(
        self: &Arc<Self>,
        uri: &Uri,
        stream: CountedStream,
        wire_stats: &WireStats,
    ) -> Result<Self::Stream, ConnectError> {
        let stream = self.connect(uri, stream).await.map_err(ConnectError::new)?;
        let stream = stream.map_err(|error| handshake_error(wire_stats, &error))?;
        check_protocol(&stream).map_err(ConnectError::new)?;
        Ok(stream)
    }
}

/// Returns the error of a failed handshake, with advice if the peer uses plaintext.
fn handshake_error(wire_stats: &WireStats, error: &io::Error) -> ConnectError {
    ConnectError::new(match wire_stats.peer_protocol() {
        PeerProtocol::Http1 | PeerProtocol::Other => format!(
            "the client speaks TLS and the agent's port plaintext: \
             use `http://` or `insecure(true)` for it ({error})"
        ),
        PeerProtocol::NoBytes => format!(
            "the agent's port closed the connection during the TLS handshake; \
             if it expects plaintext, use `http://` or `insecure(true)` ({error})"
        ),
        PeerProtocol::Tls => format!("the TLS handshake failed: {}", innermost_message(error)),
    })
}

/// Returns an error unless the peer agreed to HTTP/2.
fn check_protocol(stream: &TlsStream<CountedStream>) -> Result<(), BoxError> {
    if stream.get_ref().1.alpn_protocol() == Some(HTTP_2) {
        Ok(())
    } else {
        Err("the peer uses TLS but did not agree to HTTP/2 (ALPN `h2`)".into())
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BoxError> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() {
        return Err("the PEM text contains no certificate".into());
    }
    Ok(certificates)
}
