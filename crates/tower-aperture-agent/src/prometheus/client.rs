//! A client for the HTTP API of a Prometheus, which returns one number per query.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use prometheus_http_query::Error;
use reqwest::Url;
use reqwest::redirect::Policy;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::error::PrometheusError;
use super::response::{self, QueryResult};

/// The timeout of a query, the same as that of an Agent's Controller.
pub(super) const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a response that are read. One series with all its labels needs far less.
const MAX_RESPONSE_BYTES: usize = 256 * 1024;

pub(super) struct QueryClient {
    client: prometheus_http_query::Client,
    /// The URL as configured, with the user and password that it may contain.
    url: String,
    /// The URL without user, password and query.
    display_url: String,
}

impl QueryClient {
    pub(super) fn new(
        url: &str,
        pem: Option<&[u8]>,
        timeout: Duration,
    ) -> Result<Self, PrometheusError> {
        let parsed = Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            // The error does not repeat the URL, which may contain a password.
            .ok_or(PrometheusError::new(
                "the URL of Prometheus is not valid; a valid one is http://127.0.0.1:9090",
            ))?;
        let roots = match pem {
            Some(pem) => roots_from_pem(pem)?,
            None if parsed.scheme() == "https" => system_roots()?,
            None => RootCertStore::empty(),
        };
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls_config(roots)?)
            .timeout(timeout)
            .redirect(Policy::none())
            .build()
            .map_err(|error| {
                let error = error.without_url();
                PrometheusError::with("the HTTP client cannot be set up", error)
            })?;
        let client = prometheus_http_query::Client::from(http, url).map_err(|error| {
            PrometheusError::with("the URL of Prometheus cannot be used", error)
        })?;
        Ok(Self {
            client,
            url: url.to_owned(),
            display_url: without_secrets(parsed),
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn display_url(&self) -> &str {
        &self.display_url
    }

    /// Returns the result of a query, or the predicate of a sentence with Prometheus as its
    /// subject.
    ///
    /// Reads at most [`MAX_RESPONSE_BYTES`] bytes, whatever Prometheus sends.
    pub(super) async fn query(&self, query: &str) -> Result<QueryResult, String> {
        // Two series are as invalid as a million. Older versions of Prometheus ignore the limit.
        let sent = self.client.query(query).query("limit", 2).post_raw();
        let mut http_response = sent.await.map_err(|error| describe_error(&error))?;
        let status = http_response.status();
        let mut body = Vec::new();
        while let Some(chunk) = http_response
            .chunk()
            .await
            .map_err(|error| describe_transport_error(&error))?
        {
            if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                return Err(format!(
                    "returns more than {} KiB; one number is needed",
                    MAX_RESPONSE_BYTES / 1024
                ));
            }
            body.extend_from_slice(&chunk);
        }
        response::parse(&body).unwrap_or_else(|_| {
            Err(match status.is_success() {
                true => "returned a response that does not follow its API".into(),
                false => format!("returned HTTP status {status}"),
            })
        })
    }
}

/// Returns a TLS configuration that trusts `roots`.
fn tls_config(roots: RootCertStore) -> Result<ClientConfig, PrometheusError> {
    // Set explicitly, so that no default provider has to be installed for the process.
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| PrometheusError::with("TLS cannot be set up", error))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Returns the certificates of a PEM text.
fn roots_from_pem(pem: &[u8]) -> Result<RootCertStore, PrometheusError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate
            .map_err(|error| PrometheusError::with("the certificate cannot be read", error))?;
        roots
            .add(certificate)
            .map_err(|error| PrometheusError::with("the certificate is not valid", error))?;
    }
    if roots.is_empty() {
        return Err(PrometheusError::new(
            "the text contains no certificate: PEM is expected",
        ));
    }
    Ok(roots)
}

/// Returns the root certificates of the system.
fn system_roots() -> Result<RootCertStore, PrometheusError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Certificates that this library cannot parse are common and ignored.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        const NONE: &str = "the system has no root certificates";
        return Err(match found.errors.into_iter().next() {
            Some(error) => PrometheusError::with(NONE, error),
            None => PrometheusError::new(NONE),
        });
    }
    Ok(roots)
}

/// Returns the URL without user, password and query.
fn without_secrets(mut url: Url) -> String {
    // Setting these fails only for URLs without a host, which cannot contain them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.to_string()
}

/// Describes a failed query as the predicate of a sentence with Prometheus as its subject.
fn describe_error(error: &Error) -> String {
    match error {
        Error::Client(error) => match error.inner() {
            Some(cause) => describe_transport_error(cause),
            None => "cannot be queried".into(),
        },
        other => format!("cannot be queried: {other}"),
    }
}

/// Describes the causes below the outer errors, whose texts contain the URL and possibly a
/// password.
fn describe_transport_error(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "did not answer in time".into();
    }
    let mut text = String::from("cannot be queried");
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
