//! TLS of the agent: protocols, client certificates and errors.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tower_aperture::pb::check::flow_control_service_client::FlowControlServiceClient;
use tower_aperture_agent::Tls;

use crate::support::{Certificates, Served, TWO, request};

fn endpoint(served: &Served, certificates: &Certificates) -> (Endpoint, ClientTlsConfig) {
    let endpoint = Endpoint::from_shared(format!("https://{}", served.address));
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&certificates.authority))
        .domain_name("localhost");
    (endpoint.expect("an address"), tls)
}

#[tokio::test]
async fn the_agent_serves_grpc_and_http_1_over_tls() {
    let certificates = Certificates::new();
    let tls = Tls::from_pem(&certificates.certificate, &certificates.key)
        .expect("the certificate matches the key");
    let served = Served::with(TWO, |agent| agent, Some(tls)).await;
    let (endpoint, tls) = endpoint(&served, &certificates);
    let channel = endpoint
        .tls_config(tls)
        .expect("a valid configuration")
        .connect()
        .await;
    let mut checks = FlowControlServiceClient::new(channel.expect("the agent listens"));
    checks.check(request("checkout")).await.expect("an answer");

    let mut roots = RootCertStore::empty();
    roots
        .add(certificates.authority_der.der().clone())
        .expect("an authority");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(served.address)
        .await
        .expect("the agent listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await.expect("a handshake");
    let call = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(call).await.expect("the agent reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("the agent answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn an_agent_that_requires_client_certificates_refuses_other_clients() {
    let (own, others) = (Certificates::new(), Certificates::new());
    let certificates = own;
    let tls = Tls::with_client_ca(
        &certificates.certificate,
        &certificates.key,
        &certificates.authority,
    );
    let served = Served::with(
        TWO,
        |agent| agent,
        Some(tls.expect("a valid configuration")),
    )
    .await;
    for (identity, good) in [
        (None, false),
        (Some(&others), false),
        (Some(&certificates), true),
    ] {
        let (endpoint, mut tls) = endpoint(&served, &certificates);
        if let Some(one) = identity {
            tls = tls.identity(Identity::from_pem(&one.certificate, &one.key));
        }
        let channel = endpoint
            .tls_config(tls)
            .expect("a valid configuration")
            .connect_lazy();
        let answer = FlowControlServiceClient::new(channel)
            .check(request("checkout"))
            .await;
        assert_eq!(answer.is_ok(), good);
    }
}

#[test]
fn errors_name_the_certificate_key_or_authority_that_is_wrong() {
    let (one, other) = (Certificates::new(), Certificates::new());
    let wrong =
        Tls::from_pem(&one.certificate, &other.key).expect_err("the key of another certificate");
    assert!(
        wrong
            .to_string()
            .starts_with("the certificate and its private key: "),
        "{wrong}"
    );
    let wrong = Tls::from_pem(&one.certificate, "no key").expect_err("no key");
    assert!(
        wrong.to_string().starts_with("the private key: "),
        "{wrong}"
    );
    let wrong = Tls::with_client_ca(&one.certificate, &one.key, "").expect_err("no authority");
    assert!(
        wrong.to_string().contains("authority of clients"),
        "{wrong}"
    );
    assert!(!format!("{wrong:?}").contains("BEGIN"));
}
