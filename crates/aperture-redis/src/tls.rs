//! TLS connections, with rustls.

use std::io;
use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Makes TLS connections.
pub(crate) struct Tls {
    /// Set at once with roots of one's own; else by the first connection, which reads the system's.
    config: OnceLock<Arc<ClientConfig>>,
}

impl Tls {
    /// Checks the roots, if they are not the system's.
    pub(crate) fn new(roots: Option<&[u8]>) -> Result<Self, String> {
        let config = OnceLock::new();
        if let Some(pem) = roots {
            let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            let certificates = certificates.map_err(|error| format!("no valid PEM: {error}"))?;
            let _ = config.set(client_config(certificates)?);
        }
        Ok(Self { config })
    }

    /// Returns the configuration of all connections. The first call may read the system's roots,
    /// on a blocking thread.
    async fn config(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await?;
        let config = client_config(found.certs).map_err(io::Error::other)?;
        Ok(Arc::clone(self.config.get_or_init(|| config)))
    }

    pub(crate) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(self.config().await?);
        connector.connect(name, stream).await
    }
}

fn client_config(roots: Vec<CertificateDer<'static>>) -> Result<Arc<ClientConfig>, String> {
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(roots);
    if added == 0 {
        return Err("found no valid root certificate".to_owned());
    }
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.unwrap_or_else(|| Arc::new(ring::default_provider()));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = builder.with_root_certificates(store).with_no_client_auth();
    Ok(Arc::new(config))
}
