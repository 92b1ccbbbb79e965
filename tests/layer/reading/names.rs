//! Names that clients choose: the path names a gRPC call, and unknown names become one name.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::MatchedPath;
use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::client::Script;
use tower_aperture::layer::{
    FALLBACK_NAME, extension_str, grpc_method, grpc_service, header, joined, path_template, query,
};
use tower_aperture::pb::check::check_response::RejectReason as Reason;
use tower_aperture::{
    ApertureClient, ApertureLayer, Check, Decider, Engine, FlowParams, RequestHead,
};

use crate::layer_support::inner::hello;
use crate::layer_support::{Recorded, Recorder};
use crate::reading::{Inner, limited, request, send};
use crate::support::agent::{FakeAgent, Reply, answer};

/// A reader of a control point.
type Read = fn(RequestHead<'_>) -> Cow<'_, str>;

/// Calls `/test.Echo/Say` of a tonic server with a method and content type that gRPC clients do not
/// use, and returns whether it ran.
async fn call(
    address: std::net::SocketAddr,
    method: &str,
    content_type: Option<&'static str>,
) -> bool {
    let client = Client::builder(TokioExecutor::new());
    let client = client.clone().http2_only(true).build_http::<Full<Bytes>>();
    let request = Request::builder().method(method);
    let mut request = request
        .uri(format!("http://{address}/test.Echo/Say"))
        .body(Full::from(&b"\0\0\0\0\x05hello"[..]))
        .expect("a request");
    if let Some(content_type) = content_type {
        let value = HeaderValue::from_static(content_type);
        request.headers_mut().insert("content-type", value);
    }
    let response = client.request(request).await.expect("a response");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body");
    let ran = body.to_bytes().ends_with(b"hello");
    assert!(ran || head.status == 429 || head.headers["grpc-status"] == "8");
    ran
}

const ODD_CALLS: [(&str, Option<&str>); 7] = [
    ("POST", None),
    ("POST", Some("text/plain")),
    ("POST", Some("application/grpc-web-text")),
    ("POST", Some("APPLICATION/GRPC+proto")),
    ("PUT", None),
    ("GET", Some("text/html")),
    ("POST", Some("application/grpc")),
];

#[tokio::test]
async fn calls_are_limited_with_any_content_type_and_method() {
    let readers: [(Read, &str); 3] = [
        (grpc_service, "test.Echo"),
        (grpc_method, "Say"),
        (|head| head.uri().path().into(), "/test.Echo/Say"),
    ];
    for (read, name) in readers {
        for (method, content_type) in ODD_CALLS {
            let client = limited(1, &format!("control_point: {name}"), "");
            let layer = ApertureLayer::with_control_point(client, read);
            let address = crate::grpc::start(layer).await;
            let mut ran = 0;
            for _ in 0..3 {
                ran += u32::from(call(address, method, content_type).await);
            }
            assert_eq!(ran, 1, "{name}: {method} {content_type:?}");
        }
    }
}

#[tokio::test]
async fn an_agent_checks_a_call_by_its_path() {
    let agent = FakeAgent::start();
    agent.on_check(|request| match &*request.control_point {
        "test.Echo" => Reply::Now(answer::rejected(request, Reason::RateLimited)),
        _ => Reply::Now(answer::accepted(request)),
    });
    let client = ApertureClient::builder()
        .address(agent.address())
        .insecure(true)
        .check_timeout(Duration::from_secs(30))
        .build()
        .expect("a client");
    let layer =
        ApertureLayer::with_control_point(client, grpc_service).label_from("rpc", grpc_method);
    let address = crate::grpc::start(layer).await;
    for (method, content_type) in ODD_CALLS {
        let ran = call(address, method, content_type).await;
        assert!(!ran, "{method} {content_type:?}");
    }
    for check in agent.checks() {
        assert_eq!(check.labels["rpc"], "Say");
    }
}

// --- names that an embedded engine knows

#[tokio::test]
async fn names_in_no_policy_share_one_name_that_a_policy_may_limit() {
    let client = limited(2, &format!("control_point: {FALLBACK_NAME}"), "");
    let readers: [Read; 4] = [
        grpc_service,
        |head| head.uri().path().into(),
        |head| Cow::Owned(head.uri().path().to_lowercase()),
        |head| head.header("x-operation").unwrap_or_default().into(),
    ];
    let inner = Inner::default();
    for (turn, read) in readers.into_iter().enumerate() {
        let layer = ApertureLayer::with_control_point(client.clone(), read);
        for number in 0..5 {
            let line = format!("POST /made.up{turn}.Name{number}/Call");
            let name = format!("op-{number}");
            send(&layer, &inner, request(&line, &[("x-operation", &name)])).await;
        }
    }
    assert_eq!(inner.ran(), 2, "twenty names, one limit");
}

#[tokio::test]
async fn a_request_without_a_name_has_the_fallback_name() {
    let recorder = Recorder::accepting();
    let inner = Inner::default();
    let nameless = ApertureLayer::with_control_point(recorder.clone(), grpc_service);
    send(&nameless, &inner, request("GET /", &[])).await;
    let nameless = ApertureLayer::with_control_point(recorder.clone(), header("x-operation"));
    send(&nameless, &inner, request("GET /", &[])).await;
    send(&nameless, &inner, request("GET /", &[("x-operation", "")])).await;
    let nameless = ApertureLayer::with_control_point(
        recorder.clone(),
        extension_str::<MatchedPath>(MatchedPath::as_str),
    );
    send(&nameless, &inner, request("GET /", &[])).await;
    let asked = recorder.asked().into_iter();
    let names: Vec<_> = asked.map(|asked| asked.control_point).collect();
    assert_eq!(names, [FALLBACK_NAME; 4]);
}

/// A recorder that knows two control points.
#[derive(Clone)]
struct KnowingRecorder(Recorder);

impl Decider for KnowingRecorder {
    type Ticket = Recorded;
    type Pending = <Recorder as Decider>::Pending;

    fn decide(&self, point: &str, params: &FlowParams<'_>) -> Check<Recorded, Self::Pending> {
        self.0.decide(point, params)
    }

    fn knows_control_point(&self, name: &str) -> Option<bool> {
        Some(name == "/a/b" || name == "x|y")
    }
}

async fn control_point_of<F>(read: F, line: &str, headers: &[(&str, &str)]) -> String
where
    F: for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static,
{
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::with_control_point(KnowingRecorder(recorder.clone()), read)
        .known_names(["/listed", "listed"]);
    send(&layer, &Inner::default(), request(line, headers)).await;
    recorder.question().control_point
}

#[tokio::test]
async fn the_application_may_use_any_name_and_a_client_only_known_ones() {
    // Constants, and extensions that a router inserted.
    let own: Read = |head| match head.uri().path() {
        "/x" => Cow::Borrowed("mine"),
        _ => Cow::Borrowed(""),
    };
    assert_eq!(control_point_of(own, "GET /x", &[]).await, "mine");
    let named = extension_str::<&'static str>(|name| name);
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::with_control_point(KnowingRecorder(recorder.clone()), named);
    let mut templated = request("GET /x", &[]);
    templated.extensions_mut().insert("/users/{id}");
    send(&layer, &Inner::default(), templated).await;
    assert_eq!(recorder.question().control_point, "/users/{id}");

    // Parts of the request.
    let path: Read = |head| head.uri().path().into();
    assert_eq!(control_point_of(path, "GET /x", &[]).await, FALLBACK_NAME);
    assert_eq!(control_point_of(path, "GET /a/b", &[]).await, "/a/b");
    assert_eq!(control_point_of(path, "GET /listed", &[]).await, "/listed");
    assert_eq!(
        control_point_of(query("op"), "GET /?op=b", &[]).await,
        FALLBACK_NAME
    );
    assert_eq!(
        control_point_of(query("op"), "GET /?op=x%7Cy", &[]).await,
        "x|y"
    );
    for (value, name) in [
        ("evil", FALLBACK_NAME),
        ("listed", "listed"),
        ("x|y", "x|y"),
    ] {
        let read = header("x-op");
        assert_eq!(
            control_point_of(read, "GET /", &[("x-op", value)]).await,
            name
        );
    }
    let host: Read = |head| head.uri().host().unwrap_or("").into();
    assert_eq!(
        control_point_of(host, "GET http://evil/", &[]).await,
        FALLBACK_NAME
    );
    // A joined value must be known as a whole.
    let both = || joined((header("x-a"), header("x-b")));
    let name = control_point_of(both(), "GET /", &[("x-a", "x"), ("x-b", "y")]).await;
    assert_eq!(name, "x|y");
    let name = control_point_of(both(), "GET /", &[("x-a", "x"), ("x-b", "z")]).await;
    assert_eq!(name, FALLBACK_NAME);
    let made: Read = |head| Cow::Owned(head.uri().path().to_uppercase());
    assert_eq!(
        control_point_of(made, "GET /made", &[]).await,
        FALLBACK_NAME
    );
}

#[tokio::test]
async fn a_reload_adds_and_removes_known_names() {
    let policy = |point: &str| {
        format!(
            "
blueprint: rate-limiting/base
policy:
  policy_name: limit
  rate_limiter:
    bucket_capacity: 1
    fill_amount: 1
    parameters: {{interval: 3600s}}
    selectors: [{{control_point: {point}}}]
"
        )
    };
    let engine = Engine::builder().policy_text("limit", policy("shop.Carts"));
    let engine = engine.build().expect("a policy");
    assert_eq!(engine.knows_control_point("shop.Carts"), Some(true));
    assert_eq!(engine.knows_control_point("shop.Orders"), Some(false));
    engine
        .reload_with([("limit", policy("shop.Orders"))])
        .expect("a policy");
    assert_eq!(engine.knows_control_point("shop.Carts"), Some(false));
    assert_eq!(engine.knows_control_point("shop.Orders"), Some(true));
    let client = ApertureClient::embedded(engine);
    assert_eq!(client.knows_control_point("shop.Orders"), Some(true));
    assert_eq!(Script::new().client().knows_control_point("x"), None);
}

// --- the first 1024

/// Returns the control points of a script's flows.
fn points(script: &Script) -> BTreeSet<String> {
    let flows = script.flows().into_iter();
    flows.map(|flow| flow.control_point).collect()
}

#[tokio::test]
async fn without_known_names_the_first_1024_names_are_kept() {
    let readers: [(Read, usize); 3] = [
        (grpc_service, 1024),
        (|head| head.uri().path().into(), 1024),
        (|head| Cow::Owned(head.uri().path().to_uppercase()), 1024),
    ];
    for (read, bound) in readers {
        let script = Script::new();
        let layer = ApertureLayer::with_control_point(script.client(), read);
        // Services of one layer and its clones share the bound.
        let layers = [layer.clone(), layer.label("more", "1")];
        let inner = Inner::default();
        for number in 0..2000 {
            let line = format!("POST /made.up{number}/Call");
            send(&layers[number % 2], &inner, request(&line, &[])).await;
        }
        let names = points(&script);
        assert_eq!(names.len(), bound + 1, "the known names and the fallback");
        assert!(names.contains(FALLBACK_NAME));
        assert_eq!(inner.ran(), 2000, "every request runs");
        let before = script.flows().len();
        send(&layers[0], &inner, request("POST /made.up7/Call", &[])).await;
        assert_ne!(script.flows()[before].control_point, FALLBACK_NAME);
    }
}

#[tokio::test]
async fn a_name_that_is_too_long_is_never_learned() {
    let script = Script::new();
    let layer = ApertureLayer::with_control_point(script.client(), grpc_service);
    for length in [256, 257, 60_000] {
        let line = format!("POST /{}/Call", "x".repeat(length));
        send(&layer, &Inner::default(), request(&line, &[])).await;
    }
    let lengths: Vec<_> = script
        .flows()
        .iter()
        .map(|flow| flow.control_point.len())
        .collect();
    assert_eq!(lengths, [256, FALLBACK_NAME.len(), FALLBACK_NAME.len()]);
}

#[tokio::test]
async fn with_a_list_of_known_names_no_other_name_is_learned() {
    let script = Script::new();
    let layer = ApertureLayer::with_control_point(
        script.client(),
        path_template::<MatchedPath>(MatchedPath::as_str),
    )
    .label_from("rpc", grpc_method)
    .known_names(["/shop.Carts/Add"])
    .known_names(vec![String::from("Add")]);
    for line in [
        "POST /shop.Carts/Add",
        "POST /shop.Carts/Drop",
        "POST /x/Add",
        "GET /wp/admin",
    ] {
        send(&layer, &Inner::default(), request(line, &[])).await;
    }
    let flows = script.flows().into_iter();
    let names: Vec<_> = flows
        .map(|flow| (flow.control_point, flow.labels["rpc"].clone()))
        .collect();
    let expected = [
        ("/shop.Carts/Add", "Add"),
        (FALLBACK_NAME, FALLBACK_NAME),
        (FALLBACK_NAME, "Add"),
        (FALLBACK_NAME, FALLBACK_NAME),
    ];
    let expected = expected.map(|(point, label)| (point.to_owned(), label.to_owned()));
    assert_eq!(names, expected);
}

// --- labels

#[tokio::test]
async fn method_labels_are_bounded_and_methods_in_policies_are_always_known() {
    let client = limited(
        1,
        "control_point: api, label_matcher: {match_list: [{key: rpc, operator: In, values: [Add, Drop]}]}",
        "limit_by_label_key: rpc",
    );
    let layer = ApertureLayer::new(client, "api").label_from("rpc", grpc_method);
    let inner = Inner::default();
    for number in 0..1500 {
        let line = format!("POST /shop.Carts/Made{number}");
        send(&layer, &inner, request(&line, &[])).await;
    }
    let before = inner.ran();
    assert_eq!(before, 1500, "no policy selects them");
    for line in [
        "POST /shop.Carts/Add",
        "POST /shop.Carts/Drop",
        "PUT /shop.Carts/Add",
    ] {
        for _ in 0..3 {
            send(&layer, &inner, request(line, &[])).await;
        }
    }
    assert_eq!(inner.ran() - before, 2, "one Add, one Drop");
}

#[tokio::test]
async fn patterns_and_workloads_of_policies_make_values_known() {
    let policy = "
circuit:
  components:
  - flow_control:
      quota_scheduler:
        selectors:
        - control_point: api
          label_matcher: {expression: {not: {label_matches: {label: rpc, regex: '^Get'}}}}
        in_ports:
          bucket_capacity: {constant_signal: {value: 1}}
          fill_amount: {constant_signal: {value: 1}}
        rate_limiter: {interval: 1s}
        scheduler:
          workloads:
          - label_matcher: {match_labels: {rpc: Vip}}
            parameters: {priority: 9}
";
    let engine = Engine::builder().policy_text("quota", policy).build();
    let client = ApertureClient::embedded(engine.expect("a policy"));
    for (value, known) in [
        ("GetCart", true),
        ("Vip", true),
        ("Vi", false),
        ("rpc", false),
    ] {
        assert_eq!(client.compares_label_value(value), Some(known), "{value}");
    }
    assert_eq!(Script::new().client().compares_label_value("Vip"), None);
}

#[tokio::test]
async fn path_labels_are_learned_from_grpc_calls_only() {
    let script = Script::new();
    let layer = ApertureLayer::new(script.client(), "api")
        .label_from("service", grpc_service)
        .label_from("method", grpc_method)
        .label_from(
            "template",
            path_template::<MatchedPath>(MatchedPath::as_str),
        )
        .label_from("key", joined((grpc_method, header("x-user"))));
    let inner = Inner::default();
    for number in 0..1500 {
        let line = format!("GET /users/{number}");
        send(&layer, &inner, request(&line, &[])).await;
    }
    let user = |number: usize| format!("user-{number}");
    for number in 0..1500 {
        let headers = [("x-user", &*user(number))];
        send(&layer, &inner, request("POST /shop.Carts/Add", &headers)).await;
    }
    send(&layer, &inner, request("GET /shop.Carts/Add", &[])).await;
    let flows = script.flows();
    for flow in &flows[..1500] {
        let values: Vec<_> = flow.labels.values().map(String::as_str).collect();
        assert_eq!(values, ["other|", "other", "other", "other"]);
    }
    for (number, flow) in flows[1500..3000].iter().enumerate() {
        assert_eq!(flow.labels["service"], "shop.Carts");
        assert_eq!(flow.labels["method"], "Add");
        assert_eq!(flow.labels["template"], "/shop.Carts/Add");
        let key = format!("Add|{}", user(number));
        assert_eq!(flow.labels["key"], key, "the other part is kept");
    }
    assert_eq!(flows[3000].labels["method"], "Add", "the name is known now");

    send(&layer, &inner, request("GET /", &[])).await;
    assert!(
        script.flows()[3001].labels.is_empty(),
        "the path is not that of a call"
    );
    for number in 0..1500 {
        let line = format!("POST /shop.Carts/Made{number}");
        send(&layer, &inner, request(&line, &[])).await;
    }
    let flows = script.flows().into_iter().skip(3002);
    let methods: BTreeSet<_> = flows.map(|flow| flow.labels["method"].clone()).collect();
    assert!(methods.len() <= 1025, "{}", methods.len());
    assert!(methods.contains(FALLBACK_NAME));
}

// --- the cache of a control point

#[tokio::test]
async fn requests_with_the_fallback_name_share_no_stored_response() {
    let engine = Engine::builder().build().expect("no policies");
    let client = ApertureClient::embedded(engine);
    let layer = ApertureLayer::with_control_point(client, |head| head.uri().path().into())
        .known_names(["/known"])
        // The key does not depend on the path; each control point has its own keys.
        .result_cache(|_| "page".into(), Duration::from_secs(60));
    let inner = service_fn(async |request: Request<()>| {
        let mut response = hello();
        *response.body_mut() = Full::from(request.uri().path().to_owned());
        Ok::<_, Infallible>(response)
    });
    for (path, cached) in [
        ("/known", false),
        ("/known", true),
        ("/one", false),
        ("/two", false),
        ("/one", false),
    ] {
        let line = format!("GET {path}");
        let response = layer.layer(inner).oneshot(request(&line, &[])).await;
        let Ok(response) = response;
        assert_eq!(response.headers().contains_key("age"), cached, "{path}");
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), path);
    }
}
