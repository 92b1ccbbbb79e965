//! The certificates of an agent that serves TLS, and their errors.

use std::sync::Arc;
use std::{error, fmt};

use arc_swap::ArcSwap;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use aperture_core::Cause;

/// The certificates of an agent that serves TLS. `Debug` does not show them.
///
/// ```
/// use tower_aperture_agent::Tls;
///
/// let error = Tls::from_pem("no certificate", "no key").unwrap_err();
/// assert_eq!(error.to_string(), "the certificate: there is none in the PEM text");
/// ```
#[derive(Clone)]
pub struct Tls(Arc<ArcSwap<ServerConfig>>);

impl Tls {
    /// Reads a certificate chain, with the agent's own certificate first, and its private key, both
    /// in PEM. Serves TLS 1.2 and 1.3, and offers HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    ///
    /// Returns an error when there is no certificate or no key, or when they do not belong
    /// together.
    pub fn from_pem(
        certificates: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Result<Self, TlsError> {
        Self::new(certificates.as_ref(), key.as_ref(), None)
    }

    /// Like [`from_pem`](Self::from_pem), and requires client certificates signed by one of these
    /// authorities.
    ///
    /// # Errors
    ///
    /// As for [`from_pem`](Self::from_pem), and when there is no authority.
    pub fn with_client_ca(
        certificates: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        authorities: impl AsRef<[u8]>,
    ) -> Result<Self, TlsError> {
        Self::new(
            certificates.as_ref(),
            key.as_ref(),
            Some(authorities.as_ref()),
        )
    }

    fn new(certificates: &[u8], key: &[u8], authorities: Option<&[u8]>) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::unusable("the certificate", error))?;
        let builder = match authorities {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                const ITEM: &str = "the certificate authority of clients";
                let mut roots = RootCertStore::empty();
                for authority in read(ITEM, authorities)? {
                    roots
                        .add(authority)
                        .map_err(|error| TlsError::unusable(ITEM, error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .build()
                    .map_err(|error| TlsError::unusable(ITEM, error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let certificates = read("the certificate", certificates)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| TlsError::unusable("the private key", error))?;
        let mut config = builder
            .with_single_cert(certificates, key)
            .map_err(|error| TlsError::unusable("the certificate and its private key", error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(Arc::new(ArcSwap::from_pointee(config))))
    }

    /// Uses the certificates, the key and the authorities of `other` for new connections, also in
    /// servers that already use a clone of this value. Open connections stay open.
    ///
    /// ```no_run
    /// use tower_aperture_agent::{Tls, TlsError};
    ///
    /// fn renewed(tls: &Tls, chain: &[u8], key: &[u8]) -> Result<(), TlsError> {
    ///     tls.replace(&Tls::from_pem(chain, key)?);
    ///     Ok(())
    /// }
    /// ```
    pub fn replace(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.load_full())
    }
}

/// Reads all certificates of a PEM text. `item` names them in errors.
fn read(item: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| TlsError::unusable(item, error))?;
    if certificates.is_empty() {
        return Err(TlsError::missing(item));
    }
    Ok(certificates)
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}

/// Why certificates cannot be used. The [`source`](error::Error::source) is the underlying error,
/// if there is one.
///
/// See [`Tls`] for an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    item: &'static str,
    problem: &'static str,
    cause: Cause,
}

impl TlsError {
    const fn missing(item: &'static str) -> Self {
        Self {
            item,
            problem: "there is none in the PEM text",
            cause: Cause::NONE,
        }
    }

    fn unusable(item: &'static str, cause: impl error::Error + Send + Sync + 'static) -> Self {
        Self {
            item,
            problem: "it cannot be used",
            cause: Cause::new(cause),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.item, self.problem)
    }
}

impl error::Error for TlsError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.cause.get()
    }
}
