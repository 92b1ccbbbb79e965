//! The layer over an Agent's CheckHTTP: what goes out about a request, and what an answer does.
#![cfg(feature = "remote")]

mod layer_support;
mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::ConnectInfo;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use layer_support::server::{BOTH, Client, Version as Spoken, serve};
use support::agent::{FakeAgent, Gate, Reply, answer, give_up};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::layer::{AgentReject, ClientAddress};
use tower_aperture::pb::check::CheckResponse;
use tower_aperture::pb::check::check_response::{DecisionType, RejectReason as Reason};
use tower_aperture::pb::checkhttp::check_http_response::HttpResponse;
use tower_aperture::pb::checkhttp::{
    CheckHttpRequest, CheckHttpResponse, DeniedHttpResponse, OkHttpResponse,
};
use tower_aperture::pb::rpc::Status;
use tower_aperture::{
    ApertureClient, ApertureLayer, FailureMode, RejectReason, Rejection, RequestHead,
};

const LONG: Duration = Duration::from_secs(60);

fn client(agent: &FakeAgent) -> ApertureClient {
    ApertureClient::builder()
        .address(agent.address())
        .insecure(true)
        .connect_timeout(LONG)
        .check_timeout(LONG)
        .end_timeout(LONG)
        .build()
        .expect("a client")
}

fn layer(agent: &FakeAgent) -> ApertureLayer<ApertureClient, AgentReject> {
    ApertureLayer::http(client(agent), "ingress")
}

/// The heads that the inner service saw.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<HeaderMap>>>);

impl Seen {
    fn heads(&self) -> Vec<HeaderMap> {
        self.0.lock().expect("no test panics here").clone()
    }

    fn service<B>(
        &self,
    ) -> impl Service<Request<B>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
    where
        B: Send + 'static,
    {
        let seen = self.clone();
        service_fn(move |request: Request<B>| {
            let headers = request.headers().clone();
            seen.0.lock().expect("no test panics here").push(headers);
            async { Ok(Response::new(Full::from("hello"))) }
        })
    }
}

async fn send<R>(
    layer: &ApertureLayer<ApertureClient, R>,
    request: Request<()>,
) -> (u16, HeaderMap, String)
where
    R: tower_aperture::layer::OnReject<Full<Bytes>>,
{
    let service = layer.layer(Seen::default().service());
    let response = service.oneshot(request).await.expect("a response");
    let (head, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .map_err(|_| ())
        .expect("a body")
        .to_bytes();
    let text = String::from_utf8(body.into()).expect("text");
    (head.status.as_u16(), head.headers, text)
}

fn plain() -> Request<()> {
    Request::new(())
}

fn only(agent: &FakeAgent) -> CheckHttpRequest {
    let mut checks = agent.http_checks();
    assert_eq!(checks.len(), 1);
    assert!(agent.checks().is_empty(), "the other call is not made");
    checks.remove(0)
}

fn attributes(agent: &FakeAgent) -> tower_aperture::pb::checkhttp::check_http_request::HttpRequest {
    only(agent).request.expect("attributes")
}

fn denied(status: i32, headers: &[(&str, &str)], body: &str) -> CheckHttpResponse {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));
    CheckHttpResponse {
        status: Some(Status {
            code: 14,
            ..Status::default()
        }),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status,
            headers: headers.collect(),
            body: body.into(),
        })),
        check_response: Some(CheckResponse {
            decision_type: DecisionType::Rejected as i32,
            reject_reason: Reason::RateLimited as i32,
            expect_end: true,
            ..CheckResponse::default()
        }),
        ..CheckHttpResponse::default()
    }
}

#[tokio::test]
async fn attributes_are_those_of_the_request() {
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

        let check = only(&agent);
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
async fn the_size_is_content_length_or_unknown() {
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
async fn each_version_has_the_name_that_an_agent_knows() {
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
async fn the_host_is_that_of_the_target_or_the_header_without_a_user() {
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
async fn no_secret_travels_and_none_can_be_allowed() {
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
async fn labels_travel_as_members_of_baggage() {
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
async fn a_label_that_cannot_travel_is_counted() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let layer = ApertureLayer::http(client.clone(), "ingress").label("not a token", "1");
    send(&layer, plain()).await;
    assert!(attributes(&agent).headers.is_empty());
    assert_eq!(client.stats().labels_dropped, 1);
}

#[tokio::test]
async fn baggage_that_is_malformed_takes_no_label_of_the_application_along() {
    let agent = FakeAgent::start();
    let layer = layer(&agent).label("service", "shop");
    let request = Request::get("/").header("baggage", "a=1,,oops");
    send(&layer, request.body(()).expect("a request")).await;
    assert_eq!(attributes(&agent).headers["baggage"], "service=shop");
}

#[tokio::test]
async fn addresses_are_those_of_the_connection() {
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

    let check = only(&agent);
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
async fn a_trusted_proxy_tells_the_source() {
    let agent = FakeAgent::start();
    let peer = ClientAddress::of(|ConnectInfo(peer): &ConnectInfo<SocketAddr>| Some(*peer));
    let layer = layer(&agent).source(peer.trust("10.0.0.0/8"));
    let request = Request::get("/")
        .header("x-forwarded-for", "6.6.6.6, 2001:db8::7")
        .extension(ConnectInfo(SocketAddr::from(([10, 0, 0, 1], 443))))
        .body(())
        .expect("a request");
    send(&layer, request).await;
    let source = only(&agent).source.expect("a source");
    assert_eq!((&*source.address, source.port), ("2001:db8::7", 0));
}

#[tokio::test]
async fn headers_of_a_yes_replace_those_of_the_request() {
    let agent = FakeAgent::start();
    agent.on_check_http(|_| {
        let headers = [
            ("baggage", "tier=gold,kind=mobile"),
            ("X-Added", "yes"),
            ("Content-Length", "7"),
            ("bad name", "x"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Reply::Now(CheckHttpResponse {
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
                headers: headers.into(),
                ..OkHttpResponse::default()
            })),
            ..CheckHttpResponse::default()
        })
    });
    for version in BOTH {
        let seen = Seen::default();
        let address = serve(version, layer(&agent).layer(seen.service())).await;
        let mut client = Client::connect(version, address).await;
        let request = Request::get("http://shop.example/")
            .header("host", "shop.example")
            .header("baggage", "tier=gold")
            .header("baggage", "more=1")
            .header("x-mine", "1");
        client.send(request).await.expect("a response");
        let heads = seen.heads();
        let baggage: Vec<_> = heads[0].get_all("baggage").iter().collect();
        assert_eq!(baggage, ["tier=gold,kind=mobile"], "replaced, not added");
        assert_eq!(heads[0]["x-added"], "yes");
        assert_eq!(heads[0]["x-mine"], "1");
        assert!(!heads[0].contains_key("content-length"));
    }
}

#[tokio::test]
async fn a_yes_without_headers_leaves_the_request_as_it_was() {
    let agent = FakeAgent::start();
    let seen = Seen::default();
    let service = layer(&agent).layer(seen.service());
    let request = Request::get("/").header("baggage", "tier=gold");
    let response = service.oneshot(request.body(()).expect("a request")).await;
    assert_eq!(response.expect("a response").status(), 200);
    assert_eq!(seen.heads()[0]["baggage"], "tier=gold");
}

#[tokio::test]
async fn a_no_is_answered_as_the_agent_says() {
    for version in BOTH {
        let agent = FakeAgent::start();
        agent.on_check_http(|_| {
            let headers = [
                ("retry-after", "3"),
                ("x-policy", "per-user"),
                ("content-length", "1"),
            ];
            Reply::Now(denied(418, &headers, "not today"))
        });
        let seen = Seen::default();
        let address = serve(version, layer(&agent).layer(seen.service())).await;
        let mut client = Client::connect(version, address).await;
        let response = client.get().await.expect("a response");
        assert_eq!(response.status(), 418);
        let headers = response.headers().clone();
        assert_eq!(
            headers.get_all("retry-after").iter().collect::<Vec<_>>(),
            ["3"]
        );
        assert_eq!(headers["x-policy"], "per-user");
        assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
        let body = response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        assert_eq!(body, "not today");
        assert!(seen.heads().is_empty());
    }
}

#[tokio::test]
async fn a_status_that_http_does_not_know_gives_way_to_the_reason() {
    for (status, expected) in [(0, 429), (7, 429), (1000, 429), (-1, 429), (503, 503)] {
        let agent = FakeAgent::start();
        agent.on_check_http(move |_| Reply::Now(denied(status, &[], "")));
        let (status, headers, body) = send(&layer(&agent), plain()).await;
        assert_eq!((status, &*body), (expected, ""));
        assert!(!headers.contains_key("retry-after") && !headers.contains_key("content-type"));
    }
}

#[tokio::test]
async fn hooks_see_headers_body_and_wait() {
    let agent = FakeAgent::start();
    agent.on_check_http(|_| {
        let headers = [("retry-after", "3"), ("content-type", "text/html")];
        Reply::Now(denied(403, &headers, "<p>no</p>"))
    });
    let (_, headers, _) = send(&layer(&agent), plain()).await;
    assert_eq!(
        headers["content-type"], "text/html",
        "the Agent's own goes first"
    );

    let hook = |rejection: &Rejection, _: RequestHead<'_>| {
        assert_eq!(rejection.reason(), RejectReason::RateLimited);
        assert_eq!(rejection.retry_after(), Some(Duration::from_secs(3)));
        assert_eq!(
            rejection.headers().expect("some")["content-type"],
            "text/html"
        );
        Response::new(Full::from(rejection.body().expect("one").clone()))
    };
    let (status, _, body) = send(&layer(&agent).on_reject(hook), plain()).await;
    assert_eq!((status, &*body), (200, "<p>no</p>"));
}

#[tokio::test]
async fn a_grpc_request_is_refused_in_its_own_words() {
    let agent = FakeAgent::start();
    agent.on_check_http(|_| Reply::Now(denied(429, &[("retry-after", "2")], "not today")));
    let mut request = Request::post("http://shop.example/shop.v1.Carts/Add")
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .body(())
        .expect("a request");
    request
        .headers_mut()
        .insert("te", HeaderValue::from_static("trailers"));
    let (status, headers, body) = send(&layer(&agent), request).await;
    assert_eq!((status, &*body), (200, ""));
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(headers["grpc-status"], "8");
    assert_eq!(headers.get_all("retry-after").iter().count(), 1);

    let request = attributes(&agent);
    assert_eq!(request.path, "/shop.v1.Carts/Add");
    assert_eq!((&*request.protocol, request.size), ("HTTP/2", -1));
}

#[tokio::test]
async fn a_request_that_nobody_answers_for_runs_unless_told_otherwise() {
    let agent = FakeAgent::start();
    agent.on_check_http(|_| Reply::Status(tonic::Status::unavailable("going down")));
    let client = client(&agent);
    let open = ApertureLayer::http(client.clone(), "ingress");
    assert_eq!(send(&open, plain()).await.0, 200);
    assert_eq!(send(&open.clone().ramp_mode(true), plain()).await.0, 503);
    let closed = open.on_unreachable(FailureMode::Closed);
    assert_eq!(send(&closed, plain()).await.0, 503);
    let stats = client.stats();
    assert_eq!((stats.unreachable, stats.unavailable), (3, 3));
}

#[tokio::test]
async fn slots_are_given_back_when_the_flow_ends_and_when_its_caller_leaves() {
    let agent = FakeAgent::start();
    let gate = Gate::new();
    let granted = |request: &CheckHttpRequest| CheckHttpResponse {
        check_response: Some(CheckResponse {
            control_point: request.control_point.clone(),
            limiter_decisions: vec![answer::limiter(false)],
            expect_end: true,
            ..CheckResponse::default()
        }),
        ..CheckHttpResponse::default()
    };
    agent.on_check_http(move |request| Reply::Now(granted(request)));
    let layer = layer(&agent);
    send(&layer, plain()).await;
    agent
        .until("the end", |agent| agent.refs_ended() == 1)
        .await;

    let held = gate.clone();
    agent.on_check_http(move |request| Reply::When(held.clone(), granted(request)));
    let service = layer.layer(Seen::default().service());
    give_up(service.oneshot(plain()), "the check", || {
        agent.http_checks().len() == 2
    })
    .await;
    gate.open();
    agent
        .until("the end", |agent| agent.refs_ended() == 2)
        .await;
    assert_eq!(agent.tokens_in_flight(), 0);
}

#[cfg(feature = "telemetry")]
#[tokio::test]
async fn each_flow_leaves_a_span_with_its_status() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let layer = ApertureLayer::http(client.clone(), "ingress");
    send(&layer, plain()).await;
    agent.on_check_http(|_| Reply::Now(denied(429, &[], "")));
    send(&layer, plain()).await;
    assert!(client.shutdown(LONG).await);
    let spans = agent.spans();
    let codes = spans.iter().map(|span| {
        let text = |key| support::agent::text(span, key).expect("an attribute");
        assert!(!text("aperture.check_response").is_empty());
        (text("http.status_code"), text("aperture.flow.status"))
    });
    let expected = [("200", "OK"), ("429", "Unset")];
    let expected = expected.map(|(code, status)| (code.to_owned(), status.to_owned()));
    assert_eq!(codes.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn cache_keys_have_no_place_in_the_question() {
    let agent = FakeAgent::start();
    let layer = layer(&agent).result_cache_key(|_| "key".into());
    assert_eq!(send(&layer, plain()).await.0, 200);
    only(&agent);
}
