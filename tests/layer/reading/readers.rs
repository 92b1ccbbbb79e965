//! Readers that combine others, and the readers for axum.

use std::borrow::Cow;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use http::HeaderValue;
use tower_aperture::layer::{client_ip, first_of, header, joined, matched_path, peer_addr, reader};
use tower_aperture::{ApertureLayer, RequestHead};

use crate::layer_support::Recorder;
use crate::layer_support::server::{Client, Version};
use crate::reading::{Inner, request, send};

#[test]
fn first_of_uses_the_first_reader_that_finds_a_value() {
    let read = first_of((
        header("x-user"),
        header("x-session"),
        client_ip(peer_addr()),
    ));
    let mut request = request("GET /", &[("x-user", ""), ("x-session", "s1")]);
    let found = |request: &http::Request<()>| read(RequestHead::new(request)).into_owned();
    assert_eq!(found(&request), "s1", "an empty text is not a value");
    assert!(matches!(read(RequestHead::new(&request)), Cow::Borrowed(_)));
    request.headers_mut().remove("x-session");
    assert_eq!(found(&request), "");
    let peer = SocketAddr::from(([192, 0, 2, 1], 5));
    request.extensions_mut().insert(ConnectInfo(peer));
    assert_eq!(found(&request), "192.0.2.1");
    let user = HeaderValue::from_static("ann");
    request.headers_mut().insert("x-user", user);
    assert_eq!(found(&request), "ann");
}

#[tokio::test]
async fn closures_bound_with_let_are_readers() {
    let verb = reader(|head| head.method().as_str().into());
    let area = reader(|head| head.uri().path().split('/').nth(1).unwrap_or("").into());
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::with_control_point(recorder.clone(), area)
        .label_from("verb", verb)
        .label_from("both", joined((verb, area)))
        .label_from("either", first_of((area, verb)));
    send(&layer, &Inner::default(), request("GET /shop/7", &[])).await;
    let asked = recorder.question();
    assert_eq!(asked.control_point, "shop");
    assert_eq!(asked.label("verb"), Some("GET"));
    assert_eq!(asked.label("both"), Some("GET|shop"));
    assert_eq!(asked.label("either"), Some("shop"));
}

#[tokio::test]
async fn readers_find_the_matched_route_and_the_peer_of_axum() {
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::with_control_point(recorder.clone(), matched_path())
        .label_from("route", matched_path())
        .label_from("ip", client_ip(peer_addr()));
    let shop = Router::new().route("/carts/{id}", get(|| async { "a cart" }));
    let app = Router::new().nest("/shop", shop).layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    for path in ["/shop/carts/7", "/nowhere"] {
        let mut client = Client::connect(Version::Http1, address).await;
        let request = http::Request::get(path).header("host", "shop.example");
        client.send(request).await.expect("a response");
    }

    let asked = recorder.asked();
    assert_eq!(asked[0].control_point, "/shop/carts/{id}");
    assert_eq!(asked[0].label("route"), Some("/shop/carts/{id}"));
    assert_eq!(asked[0].label("ip"), Some("127.0.0.1"));
    assert_eq!(asked[1].control_point, "other", "no route matched");
    assert_eq!(asked[1].label("route"), None);
}
