//! The values that extractors read, and the control points that a table of routes finds.

use std::borrow::Cow;
use std::convert::Infallible;
use std::net::SocketAddr;

use crate::layer_support::Recorder;
use crate::layer_support::inner::{Body, hello};
use axum::extract::{ConnectInfo, MatchedPath};
use http::{Method, Request, Response};
use proptest::prelude::*;
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::layer::{
    ClientAddress, RouteTable, Skip, baggage_member, client_ip, extension_str, grpc_method,
    grpc_service, header, joined, path_template, query, try_header,
};
use tower_aperture::{ApertureLayer, RequestHead};

fn read<'h>(
    extract: &impl Fn(RequestHead<'h>) -> Cow<'h, str>,
    request: &'h Request<()>,
) -> Cow<'h, str> {
    extract(RequestHead::new(request))
}

fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request")
}

async fn pass(layer: &ApertureLayer<Recorder>, request: Request<()>) {
    let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(hello()));
    let response: Result<Response<_>, _> = layer.layer(inner).oneshot(request).await;
    assert_eq!(response.expect("a response").status(), 200);
}

// --- each extractor

#[test]
fn a_header_is_read_with_all_its_values_and_borrowed_if_it_has_one() {
    let user = header("X-User");
    let one = request("/", &[("x-user", "ann"), ("x-other", "1")]);
    assert!(matches!(read(&user, &one), Cow::Borrowed("ann")));
    let two = request("/", &[("x-user", "ann"), ("x-user", "eve")]);
    assert_eq!(read(&user, &two), "ann,eve");
    assert_eq!(read(&user, &request("/", &[])), "");
}

#[test]
fn secret_headers_are_refused_as_extractors() {
    for name in [
        "authorization",
        "Cookie",
        "set-cookie",
        "proxy-authorization",
        "no name",
    ] {
        assert!(try_header(name).is_err(), "{name}");
    }
    let panic = std::panic::catch_unwind(|| drop(header("cookie")));
    let panic = panic.expect_err("refused");
    let text = panic.downcast_ref::<String>().expect("a text");
    assert_eq!(
        text,
        "the header `cookie` is a secret and cannot be a label"
    );
}

#[test]
fn a_query_parameter_is_decoded() {
    let user = query("user name");
    for (uri, expected) in [
        ("/?user+name=ann", "ann"),
        ("/?user%20name=ann%20b+c%2B", "ann b c+"),
        ("/?x=1&user+name=ann&user+name=eve", "ann"),
        ("/?user+name", ""),
        ("/?user+name=", ""),
        ("/?user+name=a=b", "a=b"),
        ("/?user+name=%zz%f", "%zz%f"),
        ("/?user+name=%ff", "\u{fffd}"),
        ("/?user+name=%C3%BC", "\u{fc}"),
        ("/?xuser+name=1", ""),
        ("/?&&", ""),
        ("/", ""),
    ] {
        assert_eq!(read(&user, &request(uri, &[])), expected, "{uri}");
    }
    let plain = request("/?id=42&x=%20", &[]);
    assert!(matches!(read(&query("id"), &plain), Cow::Borrowed("42")));
}

#[test]
fn a_baggage_member_is_read_by_the_rules_of_w3c() {
    let tenant = baggage_member("tenant");
    for (headers, expected) in [
        (&["tenant=a%20b;p=1,x=2"][..], "a b"),
        (&["tenant=a,tenant=b"], "b"),
        (&["tenant=a", "tenant=b,x=1"], "b"),
        (&["tenant=a,,"], "a"),
        (&["tenant=a,tenant=%zz", "x=a b"], "a"),
        (&["tenants=a"], ""),
        (&[], ""),
    ] {
        let headers: Vec<_> = headers.iter().map(|value| ("baggage", *value)).collect();
        assert_eq!(
            read(&tenant, &request("/", &headers)),
            expected,
            "{headers:?}"
        );
    }
    let plain = request("/", &[("baggage", "tenant=a")]);
    assert!(matches!(read(&tenant, &plain), Cow::Borrowed("a")));
}

#[test]
fn path_templates_come_from_the_router_or_are_the_path_of_a_grpc_call() {
    #[derive(Clone)]
    struct Template(&'static str);

    let template = path_template::<Template>(|template| template.0);
    let mut matched = request("/users/42", &[]);
    matched.extensions_mut().insert(Template("/users/{id}"));
    assert_eq!(read(&template, &matched), "/users/{id}");
    // tonic serves calls with any content type.
    for content_type in [
        "application/grpc+proto",
        "application/grpc-web-text",
        "text/plain",
    ] {
        let call = request("/shop.v1.Carts/Add", &[("content-type", content_type)]);
        assert_eq!(read(&template, &call), "/shop.v1.Carts/Add");
        assert_eq!(read(&grpc_service, &call), "shop.v1.Carts");
        assert_eq!(read(&grpc_method, &call), "Add");
    }
    for path in ["/made-up", "/", "/Add/", "//Add", "*"] {
        let other = request(path, &[("content-type", "application/grpc")]);
        assert_eq!(read(&template, &other), "", "{path}");
        assert_eq!(read(&grpc_service, &other), "", "{path}");
        assert_eq!(read(&grpc_method, &other), "", "{path}");
    }
}

fn of_connection() -> ClientAddress {
    ClientAddress::of(|ConnectInfo(peer): &ConnectInfo<SocketAddr>| Some(*peer))
}

fn request_from_peer(peer: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = request("/", headers);
    let peer: SocketAddr = peer.parse().expect("an address");
    request.extensions_mut().insert(ConnectInfo(peer));
    request
}

#[test]
fn the_client_address_is_the_rightmost_untrusted_hop() {
    let ip = client_ip(
        of_connection()
            .trust("10.0.0.0/8")
            .trust("2001:db8::1")
            .trust("::1"),
    );
    let list = "x-forwarded-for";
    for (peer, forwarded, expected) in [
        ("192.0.2.1:5", &["6.6.6.6"][..], "192.0.2.1"),
        ("10.0.0.1:5", &["6.6.6.6, 192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1:5", &["6.6.6.6, 192.0.2.7, 10.9.9.9"], "192.0.2.7"),
        (
            "10.0.0.1:5",
            &["6.6.6.6", "192.0.2.7", "10.9.9.9"],
            "192.0.2.7",
        ),
        ("10.0.0.1:5", &["10.0.0.3,10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1:5", &[], "10.0.0.1"),
        ("10.0.0.1:5", &["192.0.2.7, unknown"], "unknown"),
        ("10.0.0.1:5", &["192.0.2.7, garbage, 10.0.0.2"], "unknown"),
        ("10.0.0.1:5", &["192.0.2.7:1234"], "192.0.2.7"),
        (
            "[2001:db8::1]:5",
            &["[2001:db8:0:9::9]:80"],
            "2001:db8:0:9::/64",
        ),
        ("[2001:db8::2]:5", &["6.6.6.6"], "2001:db8::/64"),
        ("[::ffff:10.0.0.1]:5", &["::ffff:192.0.2.7"], "192.0.2.7"),
    ] {
        let headers: Vec<_> = forwarded.iter().map(|value| (list, *value)).collect();
        assert_eq!(
            read(&ip, &request_from_peer(peer, &headers)),
            expected,
            "{peer} {forwarded:?}"
        );
    }
}

#[test]
fn without_a_trusted_connection_forwarding_headers_are_ignored() {
    let headers = [("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6")];
    assert_eq!(
        read(
            &client_ip(of_connection()),
            &request_from_peer("10.0.0.1:5", &headers)
        ),
        "10.0.0.1"
    );
    let trusting = client_ip(of_connection().trust("0.0.0.0/0").trust("::/0"));
    assert_eq!(read(&trusting, &request("/", &headers)), "");
}

#[test]
fn only_the_chosen_forwarding_header_is_read() {
    let headers = [
        ("x-forwarded-for", "6.6.6.6"),
        ("forwarded", r#"For="[2001:db8::7]:80""#),
    ];
    let request = request_from_peer("10.0.0.1:5", &headers);
    let address = of_connection().trust("10.0.0.1");
    assert_eq!(read(&client_ip(address.clone()), &request), "6.6.6.6");
    assert_eq!(
        read(&client_ip(address.forwarded().ipv6_prefix(128)), &request),
        "2001:db8::7"
    );
}

#[test]
fn the_client_address_comes_from_tonic_connection_info() {
    use tonic::transport::server::TcpConnectInfo;

    let address = ClientAddress::of(TcpConnectInfo::remote_addr);
    let mut request = request("/", &[]);
    request.extensions_mut().insert(TcpConnectInfo {
        local_addr: None,
        remote_addr: Some(SocketAddr::from(([192, 0, 2, 1], 5))),
    });
    assert_eq!(read(&client_ip(address), &request), "192.0.2.1");
}

#[test]
fn an_invalid_network_is_refused_with_its_text() {
    for text in ["10.0.0.0/33", "everyone", ""] {
        let error = of_connection().try_trust(text).expect_err("no network");
        let expected =
            format!("`{text}` is neither a network, such as `10.0.0.0/8`, nor an address");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn values_are_joined_and_no_values_make_no_label() {
    let both = joined((header("x-a"), header("x-b"), query("c")));
    for (headers, expected) in [
        (&[("x-a", "1"), ("x-b", "2")][..], "1|2|3"),
        (&[("x-b", "2")], "|2|3"),
        (&[("x-a", r"|\"), ("x-b", "b|")], r"\|\\|b\||3"),
    ] {
        assert_eq!(read(&both, &request("/?c=3", headers)), expected);
    }
    assert_eq!(read(&both, &request("/", &[])), "");
}

proptest! {
    #[test]
    fn different_parts_never_join_to_the_same_value(
        one in ("[a|\\\\]{0,4}", "[a|\\\\]{0,4}"),
        two in ("[a|\\\\]{0,4}", "[a|\\\\]{0,4}"),
    ) {
        let value = |parts: &(String, String)| {
            let request = request("/", &[("x-a", &parts.0), ("x-b", &parts.1)]);
            read(&joined((header("x-a"), header("x-b"))), &request).into_owned()
        };
        prop_assert_eq!(value(&one) == value(&two), one == two);
    }

    #[test]
    fn no_query_and_no_list_of_hops_makes_an_extractor_panic(
        text in "[ -~]{0,24}",
        forwarded in "[a-f0-9.:,;=\"\\[\\] ]{0,24}",
    ) {
        let uri: String = text.chars().filter(|c| !" #\"<>\\^`{|}".contains(*c)).collect();
        let request = request_from_peer("10.0.0.1:5", &[("forwarded", &forwarded), ("x-forwarded-for", &forwarded)]);
        let address = of_connection().trust("0.0.0.0/0").trust("::/0");
        prop_assert!(!read(&client_ip(address.clone()), &request).is_empty());
        prop_assert!(!read(&client_ip(address.forwarded()), &request).is_empty());
        if let Ok(uri) = format!("/?{uri}").parse::<http::Uri>() {
            let mut request = Request::new(());
            *request.uri_mut() = uri;
            read(&query("a"), &request);
        }
    }
}

// --- in the layer

#[tokio::test]
async fn extractors_set_labels_and_control_points() {
    fn method(head: RequestHead<'_>) -> Cow<'_, str> {
        head.method().as_str().into()
    }

    let recorder = Recorder::accepting();
    let layer = ApertureLayer::with_control_point(
        recorder.clone(),
        path_template::<MatchedPath>(MatchedPath::as_str),
    )
    .label_from("user", header("x-user"))
    .label_from("ip", client_ip(of_connection().trust("10.0.0.0/8")))
    .label_from("plan", query("plan"))
    .label_from("missing", extension_str::<MatchedPath>(MatchedPath::as_str))
    .label_from("verb", |head| head.method().as_str().into())
    .label_from("key", joined((method, header("x-user"))));
    let mut request = request_from_peer(
        "10.0.0.1:5",
        &[
            ("x-user", "42"),
            ("x-forwarded-for", "192.0.2.7"),
            ("content-type", "application/grpc"),
        ],
    );
    *request.uri_mut() = "/shop.v1.Carts/Add?plan=gold".parse().expect("a target");
    pass(&layer, request).await;

    let asked = recorder.question();
    assert_eq!(asked.control_point, "/shop.v1.Carts/Add");
    for (key, value) in [
        ("user", Some("42")),
        ("ip", Some("192.0.2.7")),
        ("plan", Some("gold")),
        ("missing", None),
        ("verb", Some("GET")),
        ("key", Some("GET|42")),
    ] {
        assert_eq!(asked.label(key), value, "{key}");
    }
}

// --- routes

fn table() -> RouteTable {
    RouteTable::new()
        .get("/users/{id}", "get-user")
        .post("/users/{id}", "change-user")
        .any("/users/me", "me")
        .any("/health", Skip)
        .get("/files/{*path}", "files")
        .head("/files/{*path}", Skip)
        .delete("/orders", "drop-order")
        .any("/orders", "orders")
}

#[test]
fn routes_are_found_by_method_and_path() {
    let table = table().fallback("other");
    for (method, path, expected) in [
        (Method::GET, "/users/42", Some("get-user")),
        (Method::HEAD, "/users/42", Some("get-user")),
        (Method::POST, "/users/42?x=1", Some("change-user")),
        (Method::PUT, "/users/42", Some("other")),
        (Method::GET, "/users/me", Some("me")),
        (Method::PUT, "/health", None),
        (Method::GET, "/files/a/b/c", Some("files")),
        (Method::HEAD, "/files/a/b/c", None),
        (Method::DELETE, "/orders", Some("drop-order")),
        (Method::HEAD, "/orders", Some("orders")),
        (Method::GET, "/nowhere", Some("other")),
        (Method::OPTIONS, "*", Some("other")),
    ] {
        let mut request = request("/", &[]);
        *request.method_mut() = method.clone();
        *request.uri_mut() = path.parse().expect("a target");
        let found = table.control_point(RequestHead::new(&request));
        assert_eq!(found, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn a_layer_with_routes_checks_under_their_names_and_skips_other_paths() {
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::with_routes(recorder.clone(), table());
    for path in ["/health", "/nowhere", "/users/42"] {
        pass(&layer, request(path, &[])).await;
    }
    assert_eq!(recorder.question().control_point, "get-user");

    let manual = Recorder::by_hand();
    let layer = ApertureLayer::with_routes(manual.clone(), table());
    let inner = service_fn(async |_: Request<()>| Ok::<Response<Body>, Infallible>(hello()));
    let response = tokio::spawn(layer.layer(inner).oneshot(request("/users/42", &[])));
    manual.asked_once().await;
    let denial = crate::layer_support::inner::denial();
    manual.answer(crate::layer_support::Answer::Reject(denial));
    assert_eq!(
        response
            .await
            .expect("no panic")
            .expect("a response")
            .status(),
        429
    );
}

#[test]
fn an_invalid_route_is_refused_with_a_remedy() {
    let users = || RouteTable::new().get("/users/{id}", "get-user");
    for (built, expected) in [
        (
            users().try_route(Method::POST, "/users/{name}", "x"),
            "the route `POST /users/{name}`: it matches the same paths as `/users/{id}`; use the \
             same parameter names",
        ),
        (
            users().try_route(Method::GET, "/users/{id}", "x"),
            "the route `GET /users/{id}`: the route already exists; remove one of the two",
        ),
        (
            users().try_any("users", "x"),
            "the route `users`: the path must begin with `/`",
        ),
        (
            users().try_any("/a", ""),
            "the route `/a`: the control point is empty; name one, or use `Skip`",
        ),
        (
            users().try_any("/{id", "x"),
            "the route `/{id`: a parameter is a name in braces, such as `{id}`; write `{{` for a literal brace",
        ),
        (
            users().try_any("/{*rest}/x", "x"),
            "the route `/{*rest}/x`: `{*rest}` must be the last segment",
        ),
        (
            users().try_any("/{a}{b}", "x"),
            "the route `/{a}{b}`: a segment may contain one parameter, at its end, such as `/{id}`",
        ),
    ] {
        assert_eq!(built.expect_err("refused").to_string(), expected);
    }
    let panic = std::panic::catch_unwind(|| drop(users().get("/users/{id}", "x")));
    assert!(panic.is_err());
}
