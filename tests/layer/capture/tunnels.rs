//! Requests that open a tunnel pass uncaptured; an upgrade header alone does not open one.

use crate::layer_support::server::{self, serve};
use http::request::Builder;
use http::{Method, Version};

use super::*;

/// Sends a request; returns the bodies that the decider saw, or `None` while the layer waits for
/// the body.
async fn send(request: Builder, body: Script) -> Option<Vec<String>> {
    let reader = Reader::default();
    let inner = service_fn(async |_: Request<ReplayBody<Script>>| Ok::<_, Infallible>(hello()));
    let layer = ApertureLayer::http(reader.clone(), "here");
    let service = CaptureBody::new(64).layer(layer.layer(inner));
    let request = request.body(body).expect("a request");
    let mut response = pin!(service.oneshot(request));
    match futures_util::poll!(&mut response) {
        Poll::Ready(response) => {
            assert_eq!(response.expect("a response").status(), 200);
            Some(reader.bodies())
        }
        Poll::Pending => None,
    }
}

fn websocket() -> Builder {
    let request = Request::get("/chat").header("connection", "Upgrade");
    request.header("upgrade", "websocket")
}

#[tokio::test]
async fn bodies_of_connect_and_upgrades_are_not_captured() {
    let never = || Script::new([Step::Data("frames of a tunnel"), Step::Hang]);
    let no_body = Some(vec![String::new()]);
    for version in [Version::HTTP_11, Version::HTTP_2, Version::HTTP_3] {
        let connect = Request::builder()
            .method(Method::CONNECT)
            .uri("shop.example:443")
            .version(version);
        assert_eq!(send(connect, never()).await, no_body, "{version:?}");
        let extended = Request::builder()
            .method(Method::CONNECT)
            .uri("https://shop.example/chat")
            .extension(hyper::ext::Protocol::from_static("websocket"))
            .version(version);
        assert_eq!(send(extended, never()).await, no_body, "{version:?}");
    }
    for request in [
        websocket(),
        websocket().header("connection", "keep-alive"),
        websocket().header("content-length", "0"),
        Request::get("/chat")
            .header("connection", "keep-alive , UPGRADE")
            .header("upgrade", "websocket"),
        Request::post("/chat")
            .header("connection", "upgrade")
            .header("upgrade", "h2c"),
    ] {
        assert_eq!(send(request, never()).await, no_body);
    }
}

#[tokio::test]
async fn an_upgrade_header_does_not_hide_a_body() {
    let body = || data(&["user=7"]);
    let read = Some(vec!["user=7".to_owned()]);
    for request in [
        websocket().header("content-length", "6"),
        websocket().header("content-length", "six"),
        websocket().header("transfer-encoding", "chunked"),
        websocket().version(Version::HTTP_10),
        websocket().version(Version::HTTP_2),
        Request::post("/").header("upgrade", "websocket"),
        Request::post("/").header("connection", "upgrade"),
        Request::post("/")
            .header("connection", "upgraded, no-upgrade")
            .header("upgrade", "websocket"),
    ] {
        assert_eq!(send(request, body()).await, read);
    }
    let hanging = Script::new([Step::Data("user=7"), Step::Hang]);
    let request = websocket().header("transfer-encoding", "chunked");
    assert_eq!(
        send(request, hanging).await,
        None,
        "the layer waits for the body"
    );
}

/// Uses a real connection: an upgrade, then bytes in both directions.
#[tokio::test]
async fn an_upgraded_connection_works_through_the_layer() {
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let inner = service_fn(
        async |mut request: Request<ReplayBody<hyper::body::Incoming>>| {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.expect("upgraded"));
                let mut ping = [0; 4];
                io.read_exact(&mut ping).await.expect("a ping");
                io.write_all(&ping).await.expect("sent");
            });
            let response = Response::builder().status(101);
            let response = response
                .header("connection", "upgrade")
                .header("upgrade", "echo");
            Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).expect("a response"))
        },
    );
    let layer = ApertureLayer::http(Reader::default(), "here");
    let address = serve(
        server::Version::Http1,
        CaptureBody::new(64).layer(layer.layer(inner)),
    )
    .await;
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("a server");
    stream
        .write_all(
            b"GET /chat HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nping",
        )
        .await
        .expect("sent");
    let mut received = Vec::new();
    while !received.ends_with(b"ping") {
        let mut piece = [0; 256];
        let read = stream.read(&mut piece).await.expect("a response");
        assert!(read > 0, "{}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&piece[..read]);
    }
    assert!(received.starts_with(b"HTTP/1.1 101"));
}
