//! Errors name a peer that uses another protocol: TLS for plaintext, plaintext for TLS, or HTTP/1.

use std::error::Error;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tower_aperture::{ApertureClientBuilder, FlowErrorKind, FlowParams};

use super::builder;
use crate::support::agent::FakeAgent;

/// Starts a flow and returns the cause of its error.
async fn cause(builder: ApertureClientBuilder) -> String {
    let client = builder.build().expect("a client");
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    let error = flow.error().expect("unreachable");
    assert_eq!(error.kind(), FlowErrorKind::Unavailable, "{error}");
    error.source().expect("a cause").to_string()
}

/// Starts a peer that waits for the first bytes of each connection, writes `bytes` in chunks and
/// closes the connection. Returns its address.
async fn start_peer(bytes: &'static [u8], chunk_size: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("a socket");
            let mut first = [0; 1024];
            let _ = stream.read(&mut first).await;
            for bytes in bytes.chunks(chunk_size) {
                let _ = stream.write_all(bytes).await;
                let _ = stream.flush().await;
                tokio::task::yield_now().await;
            }
            // Unread bytes would turn the close into a reset, which overtakes the written bytes.
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut first).await;
        }
    });
    address
}

const HTTP_1: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";

/// The TLS alert `unexpected_message`, with which servers answer plaintext.
const ALERT: &[u8] = &[0x15, 3, 3, 0, 2, 2, 10];

/// HTTP/2 settings, then GOAWAY with PROTOCOL_ERROR.
const GOAWAY: &[u8] = &[
    0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
];

#[tokio::test]
async fn the_error_names_plaintext_to_a_tls_port() {
    const NAMED: &str = "the client speaks plaintext and the agent's port TLS";
    for chunk_size in [1, 3, 7] {
        let message = cause(builder([start_peer(ALERT, chunk_size).await])).await;
        assert!(
            message.contains(NAMED) && message.contains("https://"),
            "{message}"
        );
    }
    // Some TLS servers answer plaintext in HTTP/1, or not at all.
    let message = cause(builder([start_peer(HTTP_1, 1).await])).await;
    assert!(
        message.contains("HTTP/1") && message.contains("if it expects TLS"),
        "{message}"
    );
    let message = cause(builder([start_peer(b"", 1).await])).await;
    assert!(
        message.contains("closed the connection") && message.contains("if it expects TLS"),
        "{message}"
    );
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn the_error_names_plaintext_to_an_agent_with_tls() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .and_then(|params| params.self_signed(&key))
        .expect("a certificate");
    let agent = FakeAgent::start_tls(&certificate.pem(), &key.serialize_pem(), None);
    let message = cause(builder([agent.address()])).await;
    assert!(
        message.contains("the client speaks plaintext and the agent's port TLS"),
        "{message}"
    );
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn the_error_names_tls_to_a_plaintext_port() {
    const NAMED: &str = "the client speaks TLS and the agent's port plaintext";
    let secure = |port: &str| {
        let port = port.rsplit_once(':').expect("a port").1;
        builder([format!("localhost:{port}")]).insecure(false)
    };
    let agent = FakeAgent::start();
    let message = cause(secure(&agent.address())).await;
    assert!(
        message.contains(NAMED) && message.contains("http://"),
        "{message}"
    );
    for (bytes, chunk_size) in [(HTTP_1, 1), (HTTP_1, 100), (GOAWAY, 2), (GOAWAY, 100)] {
        let message = cause(secure(&start_peer(bytes, chunk_size).await)).await;
        assert!(message.contains(NAMED), "{message}");
    }
    let message = cause(secure(&start_peer(b"", 1).await)).await;
    assert!(message.contains("if it expects plaintext"), "{message}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn an_alert_of_a_tls_peer_is_not_reported_as_plaintext() {
    for chunk_size in [1, 7] {
        let address = start_peer(ALERT, chunk_size).await;
        let port = address.rsplit_once(':').expect("a port").1.to_owned();
        let message = cause(builder([format!("localhost:{port}")]).insecure(false)).await;
        assert!(message.contains("the TLS handshake failed"), "{message}");
    }
}
