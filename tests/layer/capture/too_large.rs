//! A body longer than the cap is rejected, unless policies may see a part of it.

use crate::layer_support::server::{BOTH, Version, serve};
use tower_aperture::layer::{AgentReject, RequestHead};
use tower_aperture::{RejectReason, Rejection};

use super::*;

/// Sends a request through the layer; returns the response's head, the decider, and the frames that
/// the inner service read.
async fn send(
    capture: CaptureBody,
    change: impl FnOnce(ApertureLayer<Reader, AgentReject>) -> ApertureLayer<Reader, AgentReject>,
    request: Request<Script>,
) -> (http::response::Parts, Reader, Frames) {
    let (reader, got) = (Reader::default(), Arc::new(Mutex::new(Frames::new())));
    let inner = {
        let got = Arc::clone(&got);
        service_fn(move |request: Request<ReplayBody<Script>>| {
            let got = Arc::clone(&got);
            async move {
                let frames = frames(request.into_body()).await;
                *got.lock().expect("the lock is not poisoned") = frames;
                Ok::<_, Infallible>(hello())
            }
        })
    };
    let layer = change(ApertureLayer::http(reader.clone(), "here"));
    let service = capture.layer(layer.layer(inner));
    let response = service.oneshot(request).await.expect("a response");
    let got = got.lock().expect("the lock is not poisoned").clone();
    (response.into_parts().0, reader, got)
}

#[tokio::test]
async fn a_body_beyond_the_cap_is_answered_413_and_one_at_the_cap_runs() {
    for (body, status) in [
        (data(&["12345678"]), 200),
        (data(&["1234", "", "5678", ""]), 200),
        (data(&["12345678"]).hint(8), 200),
        (data(&["12345678"]).knowing_its_end(), 200),
        (data(&[]), 200),
        (data(&["123456789"]), 413),
        (data(&["123456789"]).hint(9), 413),
        (data(&["12345678", "9"]), 413),
        (data(&["1234", "", "567", "89"]), 413),
    ] {
        let about = format!("{body:?}");
        let (head, reader, got) =
            send(CaptureBody::new(8), |layer| layer, Request::new(body)).await;
        assert_eq!(head.status, status, "{about}");
        if status == 200 {
            assert!(reader.bodies() == [got.concat()], "{about}");
            assert_eq!(reader.partial(), [Vec::<String>::new()], "{about}");
        } else {
            assert!(
                reader.bodies().is_empty(),
                "the layer makes no check: {about}"
            );
            assert!(got.is_empty(), "the service does not run: {about}");
        }
    }
}

#[tokio::test]
async fn a_declared_length_beyond_the_cap_is_rejected_before_the_body_is_read() {
    let body = || Script::new([Step::Panic]);
    let with = |length: &str| {
        let request = Request::post("/").header("content-length", length);
        request.body(body()).expect("a request")
    };
    for request in [
        with("9"),
        with("5000000"),
        with("18446744073709551615"),
        Request::new(body().hint(9)),
        Request::new(body().hint(u64::MAX)),
    ] {
        let (head, reader, _) = send(CaptureBody::new(8), |layer| layer, request).await;
        assert_eq!(head.status, 413);
        assert!(reader.bodies().is_empty());
    }
}

#[tokio::test]
async fn a_grpc_request_with_a_too_large_body_gets_resource_exhausted() {
    let request = Request::post("/shop.Cart/Add").header("content-type", "application/grpc");
    let request = request.body(data(&["123456789"])).expect("a request");
    let (head, reader, _) = send(CaptureBody::new(8), |layer| layer, request).await;
    assert_eq!(
        (head.status.as_u16(), head.headers["grpc-status"].as_bytes()),
        (200, &b"8"[..])
    );
    assert_eq!(
        head.headers["grpc-message"],
        "rejected: the body is too large"
    );
    assert!(reader.bodies().is_empty());
}

#[tokio::test]
async fn the_reject_hook_responds_to_too_large_bodies() {
    let inner = service_fn(async |_: Request<ReplayBody<Script>>| Ok::<_, Infallible>(hello()));
    let hook = |rejection: &Rejection, _: RequestHead<'_>| {
        assert_eq!(rejection.reason(), RejectReason::BodyTooLarge);
        assert_eq!(rejection.reason().as_str(), "body_too_large");
        assert_eq!(rejection.control_point(), "here");
        assert_eq!(rejection.status(), 413);
        Response::builder()
            .status(418)
            .body(Full::<Bytes>::default())
            .expect("a response")
    };
    let layer = ApertureLayer::http(Reader::default(), "here").on_reject(hook);
    let service = CaptureBody::new(8).layer(layer.layer(inner));
    let response = service.oneshot(Request::new(data(&["123456789"])));
    assert_eq!(response.await.expect("a response").status(), 418);
}

#[tokio::test]
async fn an_allowed_partial_body_is_sent_and_marked_as_partial() {
    for (parts, sent, partial) in [
        (&["12345678"][..], "12345678", "false"),
        (&["123456789"], "12345678", "true"),
        (&["1234567ü"], "1234567", "true"),
        (&["1", "", "2345678", "9"], "12345678", "true"),
    ] {
        let whole = parts.concat();
        let size = u64::try_from(whole.len()).expect("small");
        // The character at the cap is split into two frames.
        let whole = whole.replace('ü', r"\xc3\xbc");
        let body = data(parts).hint(size);
        let mut request = Request::new(body);
        // The client's own values of the header must not count.
        for value in ["false", "true"] {
            let value = http::HeaderValue::from_static(value);
            request
                .headers_mut()
                .append(HttpAttributes::PARTIAL_BODY, value);
        }
        let about = format!("{:?}", request.body());
        let capture = CaptureBody::new(8).allow_partial(true);
        let sending = |layer: ApertureLayer<_, _>| layer.send_header(HttpAttributes::PARTIAL_BODY);
        let (head, reader, got) = send(capture, sending, request).await;
        assert_eq!(head.status, 200, "{about}");
        assert_eq!(reader.bodies(), [sent], "{about}");
        assert_eq!(reader.partial(), [[partial]], "{about}");
        assert_eq!(got.concat(), whole, "{about}");
    }
}

#[tokio::test]
async fn skipped_and_shadowed_requests_run_with_their_whole_body() {
    for declared in [false, true] {
        let body = || match declared {
            true => data(&["12345", "6789"]).hint(9),
            false => data(&["12345", "6789"]),
        };
        let request = Request::new(body());
        let (head, reader, got) =
            send(CaptureBody::new(8), |layer| layer.skip(|_| true), request).await;
        assert_eq!((head.status.as_u16(), &*got.concat()), (200, "123456789"));
        assert!(reader.bodies().is_empty());

        let request = Request::new(body());
        let (head, reader, got) = send(
            CaptureBody::new(8),
            |layer| layer.shadow_mode(true),
            request,
        )
        .await;
        assert_eq!((head.status.as_u16(), &*got.concat()), (200, "123456789"));
        assert_eq!(reader.bodies(), [if declared { "" } else { "12345678" }]);
        assert_eq!(reader.partial(), [["true"]]);
    }
}

#[tokio::test]
async fn a_layer_that_does_not_send_bodies_rejects_no_body() {
    let recorder = crate::layer_support::Recorder::accepting();
    let inner = service_fn(async |_: Request<ReplayBody<Script>>| Ok::<_, Infallible>(hello()));
    let service =
        CaptureBody::new(8).layer(ApertureLayer::new(recorder.clone(), "here").layer(inner));
    let response = service.oneshot(Request::new(data(&["123456789"]))).await;
    assert_eq!(response.expect("a response").status(), 200);
}

#[tokio::test]
async fn a_cap_of_zero_captures_no_bytes_and_every_cap_is_bounded_by_max_bytes() {
    let body = Script::new([Step::Data("123"), Step::Data("456")]);
    let (head, reader, got) = send(CaptureBody::new(0), |layer| layer, Request::new(body)).await;
    assert_eq!(
        (head.status.as_u16(), got.len()),
        (200, 2),
        "the frames are not merged"
    );
    assert_eq!(reader.bodies(), [""]);

    for (size, status) in [
        (CaptureBody::MAX_BYTES, 200),
        (CaptureBody::MAX_BYTES + 1, 413),
    ] {
        let body = Script::new([Step::Bytes(Bytes::from(vec![b'x'; size]))]);
        let capture = CaptureBody::new(usize::MAX);
        let (head, ..) = send(capture, |layer| layer, Request::new(body)).await;
        assert_eq!(head.status, status);
    }
}

/// Sends a request as bytes over a real connection and returns the status code. The body may be
/// incomplete.
async fn send_raw(address: std::net::SocketAddr, request: &[u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("a server");
    // The server may respond, and close, before the whole request is sent.
    let _ = stream.write_all(request).await;
    let mut response = Vec::new();
    let mut piece = [0; 1024];
    while !response.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(read) => response.extend_from_slice(&piece[..read]),
        }
    }
    String::from_utf8_lossy(&response)
        .chars()
        .skip(9)
        .take(3)
        .collect()
}

#[tokio::test]
async fn over_http_1_the_cap_holds_for_every_framing() {
    let inner = service_fn(
        async |request: Request<ReplayBody<hyper::body::Incoming>>| {
            let read = request
                .into_body()
                .collect()
                .await
                .map(http_body_util::Collected::to_bytes);
            Ok::<_, Infallible>(Response::new(Full::from(read.unwrap_or_default())))
        },
    );
    let reader = Reader::default();
    let layer = ApertureLayer::http(reader.clone(), "here");
    let address = serve(
        Version::Http1,
        CaptureBody::new(8).layer(layer.layer(inner)),
    )
    .await;
    let chunks = |chunks: &[&str]| {
        let mut text =
            "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
        for chunk in chunks {
            text += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
        }
        text
    };
    let sized = |size: usize, body: &str| {
        format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n{body}")
    };
    for (request, status) in [
        (chunks(&["1234", "5678", ""]), "200"),
        (chunks(&["1"; 8]) + "0\r\nx-trailer: 1\r\n\r\n", "200"),
        (chunks(&["1234", "56789", ""]), "413"),
        // The client does not end its body.
        (chunks(&["1"; 9]), "413"),
        (sized(8, "12345678"), "200"),
        (sized(9, "123456789"), "413"),
        (sized(9, ""), "413"),
        (sized(5_000_000, "1"), "413"),
        (sized(0, ""), "200"),
    ] {
        assert_eq!(
            send_raw(address, request.as_bytes()).await,
            status,
            "{request}"
        );
    }
    assert_eq!(
        reader.bodies(),
        ["12345678", "11111111", "12345678", ""],
        "the layer makes no check for rejected requests"
    );
}

#[tokio::test]
async fn over_both_versions_a_5_mb_body_is_answered_413() {
    for version in BOTH {
        for known in [true, false] {
            let reader = Reader::default();
            let layer = ApertureLayer::http(reader.clone(), "here");
            let inner = service_fn(async |_: Request<ReplayBody<hyper::body::Incoming>>| {
                Ok::<_, Infallible>(hello())
            });
            let service = CaptureBody::new(8 * 1024 * 1024).layer(layer.layer(inner));
            let address = serve(version, service).await;
            let frame = Bytes::from(vec![b'x'; 64 * 1024]);
            let frames = (0..80).map(|_| Step::Bytes(frame.clone()));
            let mut body = Script::new(frames);
            if known {
                body = body.hint(80 * 64 * 1024);
            }
            let status = post(version, address, body).await;
            assert_eq!(status, Some(413), "{version:?}, known: {known}");
            assert!(reader.bodies().is_empty());
        }
    }
}

/// Posts a body over a new connection.
async fn post(version: Version, address: std::net::SocketAddr, body: Script) -> Option<u16> {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let io = TokioIo::new(
        tokio::net::TcpStream::connect(address)
            .await
            .expect("a server"),
    );
    let request = Request::post("http://shop.example/").header("host", "shop.example");
    let request = request.body(body).expect("a request");
    let response = match version {
        Version::Http1 => {
            let (mut client, connection) = hyper::client::conn::http1::handshake(io)
                .await
                .expect("HTTP/1");
            tokio::spawn(connection);
            client.send_request(request).await
        }
        Version::Http2 => {
            let (mut client, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                    .await
                    .expect("HTTP/2");
            tokio::spawn(connection);
            client.send_request(request).await
        }
    };
    response.ok().map(|response| response.status().as_u16())
}
