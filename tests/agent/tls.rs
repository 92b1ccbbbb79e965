use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tower_aperture::agent::Tls;
use tower_aperture::pb::check::flow_control_service_client::FlowControlServiceClient;

use crate::support::{Papers, Served, TWO, request};

fn endpoint(served: &Served, papers: &Papers) -> (Endpoint, ClientTlsConfig) {
    let endpoint = Endpoint::from_shared(format!("https://{}", served.address));
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&papers.authority))
        .domain_name("localhost");
    (endpoint.expect("an address"), tls)
}

#[tokio::test]
async fn grpc_and_http_1_are_spoken_over_tls() {
    let papers = Papers::new();
    let tls = Tls::from_pem(&papers.certificate, &papers.key).expect("they go together");
    let served = Served::with(TWO, |agent| agent, Some(tls)).await;
    let (endpoint, tls) = endpoint(&served, &papers);
    let channel = endpoint.tls_config(tls).expect("sound").connect().await;
    let mut checks = FlowControlServiceClient::new(channel.expect("it listens"));
    checks.check(request("checkout")).await.expect("an answer");

    let mut roots = RootCertStore::empty();
    roots
        .add(papers.authority_der.der().clone())
        .expect("an authority");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(served.address)
        .await
        .expect("it listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await.expect("a handshake");
    let call = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(call).await.expect("it reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn where_clients_need_a_certificate_others_are_not_let_in() {
    let (own, others) = (Papers::new(), Papers::new());
    let papers = own;
    let tls = Tls::with_client_ca(&papers.certificate, &papers.key, &papers.authority);
    let served = Served::with(TWO, |agent| agent, Some(tls.expect("sound"))).await;
    for (identity, good) in [(None, false), (Some(&others), false), (Some(&papers), true)] {
        let (endpoint, mut tls) = endpoint(&served, &papers);
        if let Some(one) = identity {
            tls = tls.identity(Identity::from_pem(&one.certificate, &one.key));
        }
        let channel = endpoint.tls_config(tls).expect("sound").connect_lazy();
        let answer = FlowControlServiceClient::new(channel)
            .check(request("checkout"))
            .await;
        assert_eq!(answer.is_ok(), good);
    }
}

#[test]
fn what_does_not_go_together_is_refused_by_name() {
    let (one, other) = (Papers::new(), Papers::new());
    let wrong = Tls::from_pem(&one.certificate, &other.key).expect_err("another's key");
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
