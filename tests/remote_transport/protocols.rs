//! A peer that speaks another protocol is named as such.

use std::error::Error;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tower_aperture::{ApertureClientBuilder, FlowErrorKind, FlowParams};

use super::builder;
use super::support::agent::FakeAgent;

/// Returns what the client says about its Agent.
async fn cause(builder: ApertureClientBuilder) -> String {
    let client = builder.build().expect("a client");
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    let error = flow.error().expect("unreachable");
    assert_eq!(error.kind(), FlowErrorKind::Unavailable, "{error}");
    error.source().expect("a cause").to_string()
}

/// Writes these bytes to each connection after its first bytes, so many at a time, and closes it.
async fn says(bytes: &'static [u8], at_a_time: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("a socket");
            let mut first = [0; 1024];
            let _ = stream.read(&mut first).await;
            for bytes in bytes.chunks(at_a_time) {
                let _ = stream.write_all(bytes).await;
                let _ = stream.flush().await;
                tokio::task::yield_now().await;
            }
            // What was not read would turn the end into a reset, which overtakes the bytes.
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut first).await;
        }
    });
    address
}

const HTTP_1: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";

/// A TLS alert: `unexpected_message`, as servers answer plaintext.
const ALERT: &[u8] = &[0x15, 3, 3, 0, 2, 2, 10];

/// The end of HTTP/2 with PROTOCOL_ERROR, after settings.
const GOAWAY: &[u8] = &[
    0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
];

#[tokio::test]
async fn plaintext_to_a_tls_port_is_named() {
    const NAMED: &str = "the client speaks plaintext and the agent's port TLS";
    for at_a_time in [1, 3, 7] {
        let said = cause(builder([says(ALERT, at_a_time).await])).await;
        assert!(said.contains(NAMED) && said.contains("https://"), "{said}");
    }
    // Some TLS servers answer plaintext in HTTP/1, or not at all.
    let said = cause(builder([says(HTTP_1, 1).await])).await;
    assert!(
        said.contains("HTTP/1") && said.contains("if it expects TLS"),
        "{said}"
    );
    let said = cause(builder([says(b"", 1).await])).await;
    assert!(
        said.contains("closed the connection") && said.contains("if it expects TLS"),
        "{said}"
    );
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn plaintext_to_an_agent_with_tls_is_named() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .and_then(|params| params.self_signed(&key))
        .expect("a certificate");
    let agent = FakeAgent::start_tls(&certificate.pem(), &key.serialize_pem(), None);
    let said = cause(builder([agent.address()])).await;
    assert!(
        said.contains("the client speaks plaintext and the agent's port TLS"),
        "{said}"
    );
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_to_a_plaintext_port_is_named() {
    const NAMED: &str = "the client speaks TLS and the agent's port plaintext";
    let secure = |port: &str| {
        let port = port.rsplit_once(':').expect("a port").1;
        builder([format!("localhost:{port}")]).insecure(false)
    };
    let agent = FakeAgent::start();
    let said = cause(secure(&agent.address())).await;
    assert!(said.contains(NAMED) && said.contains("http://"), "{said}");
    for (bytes, at_a_time) in [(HTTP_1, 1), (HTTP_1, 100), (GOAWAY, 2), (GOAWAY, 100)] {
        let said = cause(secure(&says(bytes, at_a_time).await)).await;
        assert!(said.contains(NAMED), "{said}");
    }
    let said = cause(secure(&says(b"", 1).await)).await;
    assert!(said.contains("if it expects plaintext"), "{said}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn an_alert_of_a_tls_peer_is_not_taken_for_plaintext() {
    for at_a_time in [1, 7] {
        let address = says(ALERT, at_a_time).await;
        let port = address.rsplit_once(':').expect("a port").1.to_owned();
        let said = cause(builder([format!("localhost:{port}")]).insecure(false)).await;
        assert!(said.contains("the TLS handshake failed"), "{said}");
    }
}
