//! The contents of a CheckHTTP request.

use super::*;

#[tokio::test]
async fn the_check_carries_the_attributes_of_the_request() {
    for version in BOTH {
        let agent = FakeAgent::start();
        let layer = layer(&agent)
            .send_header("x-kind")
            .scheme("https")
            .ramp_mode(true);
        let address = serve(version, layer.layer(Seen::default().service())).await;
        let mut client = Client::connect(version, address).await;
        let uri = match version {
            Spoken::Http1 => "/cart%20a?id=1&x=%20",
            Spoken::Http2 => "http://shop.example/cart%20a?id=1&x=%20",
        };
        let request = Request::put(uri)
            .header("host", "shop.example")
            .header("x-kind", "mobile")
            .header("x-other", "stays here");
        client.send(request).await.expect("a response");

        let check = only_check(&agent);
        assert_eq!(check.control_point, "ingress");
        assert!(check.ramp_mode && check.expect_end);
        assert_eq!((check.source, check.destination), (None, None));
        let request = check.request.expect("attributes");
        assert_eq!(request.method, "PUT");
        assert_eq!(request.path, "/cart%20a?id=1&x=%20");
        assert_eq!(request.host, "shop.example");
        let (protocol, scheme) = match version {
            Spoken::Http1 => ("HTTP/1.1", "https"),
            Spoken::Http2 => ("HTTP/2", "http"),
        };
        assert_eq!((&*request.protocol, &*request.scheme), (protocol, scheme));
        assert_eq!(request.headers.len(), 1, "{:?}", request.headers);
        assert_eq!(request.headers["x-kind"], "mobile");
        assert_eq!(request.body, "");
    }
}

#[tokio::test]
async fn the_size_is_content_length_or_minus_one() {
    for (length, size) in [(Some("14"), 14), (None, -1), (Some("many"), -1)] {
        let agent = FakeAgent::start();
        let mut request = plain();
        if let Some(length) = length {
            request
                .headers_mut()
                .insert("content-length", HeaderValue::from_static(length));
        }
        send(&layer(&agent), request).await;
        assert_eq!(attributes(&agent).size, size);
    }
}

#[tokio::test]
async fn each_http_version_has_the_name_that_an_agent_knows() {
    for (version, name) in [
        (Version::HTTP_10, "HTTP/1.0"),
        (Version::HTTP_11, "HTTP/1.1"),
        (Version::HTTP_2, "HTTP/2"),
        (Version::HTTP_3, "HTTP/3"),
    ] {
        let agent = FakeAgent::start();
        let mut request = plain();
        *request.version_mut() = version;
        send(&layer(&agent), request).await;
        assert_eq!(attributes(&agent).protocol, name);
    }
}

#[tokio::test]
async fn the_host_comes_from_the_target_or_the_host_header_without_user_info() {
    for (uri, header, host) in [
        (
            "http://shop.example:80/",
            Some("other.example"),
            "shop.example:80",
        ),
        ("http://ann:secret@shop.example/", None, "shop.example"),
        ("/", Some("shop.example"), "shop.example"),
        ("/", None, ""),
    ] {
        let agent = FakeAgent::start();
        let mut request = Request::get(uri);
        if let Some(header) = header {
            request = request.header("host", header);
        }
        send(&layer(&agent), request.body(()).expect("a request")).await;
        assert_eq!(attributes(&agent).host, host);
    }
}

#[tokio::test]
async fn several_values_are_joined_and_bytes_that_are_not_utf8_replaced() {
    let agent = FakeAgent::start();
    let mut request = plain();
    request
        .headers_mut()
        .append("x-a", HeaderValue::from_static("one"));
    request
        .headers_mut()
        .append("x-a", HeaderValue::from_static("two"));
    let bytes = HeaderValue::from_bytes(b"a\xffb").expect("a legal value");
    request.headers_mut().append("x-b", bytes);
    send(
        &layer(&agent)
            .send_header("X-A")
            .send_header("x-b")
            .send_header("x-a"),
        request,
    )
    .await;
    let headers = attributes(&agent).headers;
    assert_eq!(headers["x-a"], "one,two");
    assert_eq!(headers["x-b"], "a\u{fffd}b");
    assert_eq!(headers.len(), 2);
}

#[tokio::test]
async fn secret_headers_are_never_sent_and_cannot_be_allowed() {
    let agent = FakeAgent::start();
    let request = Request::get("/")
        .header("authorization", "Bearer secret")
        .header("cookie", "secret=1")
        .body(())
        .expect("a request");
    send(&layer(&agent), request).await;
    assert!(!format!("{:?}", agent.http_checks()).contains("secret"));
    for name in [
        "Authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "no name",
    ] {
        assert!(layer(&agent).try_send_header(name).is_err(), "{name}");
    }
}

#[tokio::test]
async fn labels_are_sent_as_members_of_baggage() {
    let agent = FakeAgent::start();
    let layer = layer(&agent)
        .label("service", "shop")
        .label_from_header("user", "x-user")
        .label("not a token", "1")
        .send_header("baggage");
    let request = Request::get("/")
        .header("x-user", "a+b c%")
        .header("baggage", "user=mallory,tier=gold;p=1")
        .body(())
        .expect("a request");
    send(&layer, request).await;
    let headers = attributes(&agent).headers;
    assert_eq!(headers.len(), 1);
    assert_eq!(
        headers["baggage"],
        "user=a%252Bb%20c%2525,service=shop,tier=gold"
    );
}

#[tokio::test]
async fn a_label_that_baggage_cannot_carry_is_counted() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let layer = ApertureLayer::http(client.clone(), "ingress").label("not a token", "1");
    send(&layer, plain()).await;
    assert!(attributes(&agent).headers.is_empty());
    assert_eq!(client.stats().labels_dropped, 1);
}

#[tokio::test]
async fn a_malformed_baggage_member_removes_no_other_label() {
    let agent = FakeAgent::start();
    let layer = layer(&agent).label("service", "shop");
    let request = Request::get("/").header("baggage", "a=1,,oops");
    send(&layer, request.body(()).expect("a request")).await;
    assert_eq!(attributes(&agent).headers["baggage"], "service=shop,a=1");
}

#[tokio::test]
async fn source_and_destination_are_the_addresses_of_the_connection() {
    let agent = FakeAgent::start();
    let peer = ClientAddress::of(|ConnectInfo(peer): &ConnectInfo<SocketAddr>| Some(*peer));
    let local = |_: &ConnectInfo<SocketAddr>| Some(SocketAddr::from(([127, 0, 0, 1], 8080)));
    let layer = layer(&agent).source(peer).destination(local);
    let app = axum::Router::new()
        .route("/", axum::routing::get(|| async { "hello" }))
        .layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback");
    let address = listener.local_addr().expect("bound");
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut client = Client::connect(Spoken::Http1, address).await;
    client.get().await.expect("a response");

    let check = only_check(&agent);
    let source = check.source.expect("a source");
    assert_eq!(source.address, "127.0.0.1");
    assert!((1..=65535).contains(&source.port));
    let destination = check.destination.expect("a destination");
    assert_eq!(
        (&*destination.address, destination.port),
        ("127.0.0.1", 8080)
    );
}

#[tokio::test]
async fn the_source_comes_from_a_trusted_proxy() {
    let agent = FakeAgent::start();
    let peer = ClientAddress::of(|ConnectInfo(peer): &ConnectInfo<SocketAddr>| Some(*peer));
    let layer = layer(&agent).source(peer.trust("10.0.0.0/8"));
    let request = Request::get("/")
        .header("x-forwarded-for", "6.6.6.6, 2001:db8::7")
        .extension(ConnectInfo(SocketAddr::from(([10, 0, 0, 1], 443))))
        .body(())
        .expect("a request");
    send(&layer, request).await;
    let source = only_check(&agent).source.expect("a source");
    assert_eq!((&*source.address, source.port), ("2001:db8::7", 0));
}

#[tokio::test]
async fn clients_with_an_unreadable_forwarded_address_share_one_source() {
    for named in ["unknown", "_hidden", "garbage"] {
        let agent = FakeAgent::start();
        let peer = ClientAddress::of(|ConnectInfo(peer): &ConnectInfo<SocketAddr>| Some(*peer));
        let layer = layer(&agent).source(peer.trust("10.0.0.0/8"));
        let request = Request::get("/")
            .header("x-forwarded-for", named)
            .extension(ConnectInfo(SocketAddr::from(([10, 0, 0, 1], 443))))
            .body(())
            .expect("a request");
        send(&layer, request).await;
        let source = only_check(&agent).source.expect("a source");
        assert_eq!((&*source.address, source.port), ("0.0.0.0", 0), "{named}");
    }
}

#[tokio::test]
async fn cache_keys_are_not_sent_with_check_http() {
    let agent = FakeAgent::start();
    let layer = layer(&agent).result_cache_key(|_| "key".into());
    assert_eq!(send(&layer, plain()).await.0, 200);
    only_check(&agent);
}
