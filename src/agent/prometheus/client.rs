//! The HTTP API of a Prometheus: one query, one number.

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

use super::PrometheusError;
use super::answer::{self, Answer};

/// Bytes of an answer that are read. One series with all of its labels needs a small part of that.
const LONGEST_ANSWER: usize = 256 * 1024;

pub(super) struct Client {
    client: prometheus_http_query::Client,
    /// With the user and password that it may hold.
    url: String,
    shown: String,
}

impl Client {
    pub(super) fn new(
        url: &str,
        pem: Option<&[u8]>,
        timeout: Duration,
    ) -> Result<Self, PrometheusError> {
        let parsed = Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            // The URL may hold a password.
            .ok_or(PrometheusError::new(
                "a Prometheus has a URL such as http://127.0.0.1:9090; this is none",
            ))?;
        let roots = match pem {
            Some(pem) => given(pem)?,
            None if parsed.scheme() == "https" => system()?,
            None => RootCertStore::empty(),
        };
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(trusting(roots)?)
            .timeout(timeout)
            .redirect(Policy::none())
            .build()
            .map_err(|error| {
                let error = error.without_url();
                PrometheusError::with("no HTTP client can be made", error)
            })?;
        let client = prometheus_http_query::Client::from(http, url).map_err(|error| {
            PrometheusError::with("the URL of Prometheus makes no sense", error)
        })?;
        Ok(Self {
            client,
            url: url.to_owned(),
            shown: without_secrets(parsed),
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Returns the answer, or what Prometheus did instead, as the end of a sentence about it.
    ///
    /// Reads no more than [`LONGEST_ANSWER`], whatever Prometheus sends.
    pub(super) async fn ask(&self, query: &str) -> Result<Answer, String> {
        // Two series are as wrong as a million; older versions ignore the limit.
        let asking = self.client.query(query).query("limit", 2).post_raw();
        let mut response = asking.await.map_err(|error| problem(&error))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| unreachable(&error))?
        {
            if body.len() + chunk.len() > LONGEST_ANSWER {
                return Err(format!(
                    "answers with more than {} KiB; one number is needed",
                    LONGEST_ANSWER / 1024
                ));
            }
            body.extend_from_slice(&chunk);
        }
        answer::read(&body).unwrap_or_else(|_| {
            Err(match status.is_success() {
                true => "does not answer as its API should".into(),
                false => format!("answers {status}"),
            })
        })
    }
}

fn trusting(roots: RootCertStore) -> Result<ClientConfig, PrometheusError> {
    // Named, so that nothing has to be installed for the whole process.
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| PrometheusError::with("TLS cannot be set up", error))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn given(pem: &[u8]) -> Result<RootCertStore, PrometheusError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate
            .map_err(|error| PrometheusError::with("the certificate cannot be read", error))?;
        roots
            .add(certificate)
            .map_err(|error| PrometheusError::with("the certificate makes no sense", error))?;
    }
    if roots.is_empty() {
        return Err(PrometheusError::new(
            "there is no certificate in it: PEM is expected",
        ));
    }
    Ok(roots)
}

fn system() -> Result<RootCertStore, PrometheusError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Some that only another library understands are nothing unusual.
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

fn without_secrets(mut url: Url) -> String {
    // Only URLs without a host have no place for them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.to_string()
}

fn problem(error: &Error) -> String {
    match error {
        Error::Client(error) => match error.inner() {
            Some(cause) => unreachable(cause),
            None => "cannot be asked".into(),
        },
        other => format!("cannot be asked: {other}"),
    }
}

/// Names the causes below the layers whose texts contain the URL, which may hold a password.
fn unreachable(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "did not answer in time".into();
    }
    let mut text = String::from("cannot be asked");
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
