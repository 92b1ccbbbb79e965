//! The layer with an embedded engine that checks by the attributes of requests.
#![cfg(feature = "embedded")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::layer_support::server::{BOTH, Client, serve};
use axum::extract::ConnectInfo;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::layer::{CaptureBody, ClientAddress, OnReject};
use tower_aperture::{
    ApertureClient, ApertureLayer, Decider, Engine, FlowParams, HttpAttributes, LabelLimits,
    RejectReason, Rejection, RequestHead,
};

type Body = Full<bytes::Bytes>;

fn engine(policy: &str) -> Engine {
    let engine = Engine::builder().policy_text("policy", policy).build();
    engine.unwrap_or_else(|error| panic!("{error}"))
}

/// Returns an engine that accepts one request a minute for each value of `key`, for flows that
/// match.
fn limit(key: &str, matcher: &str) -> Engine {
    engine(&format!(
        "
circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors: [{{control_point: ingress, {matcher}}}]
        in_ports:
          bucket_capacity: {{constant_signal: {{value: 1}}}}
          fill_amount: {{constant_signal: {{value: 1}}}}
        parameters: {{interval: 60s, limit_by_label_key: {key}}}
"
    ))
}

const CLASSIFIER: &str = "
resources:
  flow_control:
    classifiers:
    - selectors: [{control_point: ingress}]
      rules:
        kind: {extractor: {from: request.http.headers.x-kind}}
        secret: {telemetry: false, extractor: {from: request.http.method}}
";

/// Records the headers of the last request that reached the inner service.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Option<HeaderMap>>>);

impl Seen {
    fn service<B: Send + 'static>(
        &self,
    ) -> impl Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static {
        let seen = self.clone();
        service_fn(move |request: Request<B>| {
            *seen.0.lock().expect("the lock is not poisoned") = Some(request.headers().clone());
            async { Ok(Response::new(Full::from("hello"))) }
        })
    }

    fn baggage(&self) -> Vec<String> {
        let seen = self.0.lock().expect("the lock is not poisoned");
        let all = seen.as_ref().expect("a request").get_all("baggage").iter();
        all.map(|value| value.to_str().expect("text").to_owned())
            .collect()
    }
}

async fn status<D, R>(layer: &ApertureLayer<D, R>, request: Request<()>) -> u16
where
    D: Decider + Clone,
    R: OnReject<Body>,
{
    let service = layer.layer(Seen::default().service());
    service
        .oneshot(request)
        .await
        .expect("a response")
        .status()
        .as_u16()
}

fn get(headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get("/cart?id=1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request")
}

#[tokio::test]
async fn policies_see_attributes_as_labels() {
    for (key, request) in [
        ("http.target", get(&[])),
        ("http.method", get(&[])),
        ("http.request.header.x_kind", get(&[("x-kind", "mobile")])),
        ("tier", get(&[("baggage", "tier=gold")])),
    ] {
        let client = ApertureClient::embedded(limit(key, ""));
        let layer = ApertureLayer::http(client.clone(), "ingress").send_header("x-kind");
        assert_eq!(status(&layer, request.clone()).await, 200, "{key}");
        assert_eq!(status(&layer, request).await, 429, "{key}");
        let stats = client.stats();
        assert_eq!((stats.accepted, stats.rejected), (1, 1), "{key}");
    }
}

#[tokio::test]
async fn labels_reach_policies_unchanged() {
    for value in ["42", "a+b c%25 +%", "Zür;ich,\"x\"\\", "%", "=", " pad "] {
        let quoted = format!("{value:?}");
        let matcher = format!("label_matcher: {{match_labels: {{user: {quoted}}}}}");
        let engine = limit("user", &matcher);
        let layer = ApertureLayer::http(engine, "ingress").label("user", value);
        assert_eq!(status(&layer, get(&[])).await, 200, "{value}");
        assert_eq!(status(&layer, get(&[])).await, 429, "{value}");
        let other = layer.label("user", "another");
        assert_eq!(status(&other, get(&[])).await, 200, "{value}");
    }
}

#[tokio::test]
async fn labels_of_the_application_prevail_over_baggage() {
    let engine = limit("user", "");
    let layer = ApertureLayer::http(engine, "ingress").label_from_header("user", "x-user");
    let request = |baggage| get(&[("x-user", "ann"), ("baggage", baggage)]);
    assert_eq!(status(&layer, request("user=bob")).await, 200);
    assert_eq!(
        status(&layer, request("user=eve")).await,
        429,
        "the user is still ann"
    );
    assert_eq!(
        status(&layer, request("broken,,")).await,
        429,
        "the user is still ann"
    );
}

#[tokio::test]
async fn labels_of_classifiers_are_passed_on_in_baggage() {
    for version in BOTH {
        let seen = Seen::default();
        let client = ApertureClient::embedded(engine(CLASSIFIER));
        let layer = ApertureLayer::http(client, "ingress").send_header("x-kind");
        let address = serve(version, layer.layer(seen.service())).await;
        let mut client = Client::connect(version, address).await;
        let request = Request::get("http://shop.example/").header("host", "shop.example");
        let request = request
            .header("baggage", "tier=gold")
            .header("x-kind", "mobile");
        client.send(request).await.expect("a response");
        assert_eq!(seen.baggage(), ["tier=gold,kind=mobile"]);

        let request = Request::get("http://shop.example/").header("host", "shop.example");
        let request = request.header("baggage", "tier=gold;p=1");
        client.send(request).await.expect("a response");
        assert_eq!(
            seen.baggage(),
            ["tier=gold;p=1"],
            "without a new label the header stays unchanged"
        );
    }
}

#[tokio::test]
async fn an_engine_without_a_client_passes_labels_on_as_well() {
    let seen = Seen::default();
    let layer = ApertureLayer::http(engine(CLASSIFIER), "ingress").send_header("x-kind");
    let service = layer.layer(seen.service());
    let request = get(&[("x-kind", "tv")]);
    service.oneshot(request).await.expect("a response");
    assert_eq!(seen.baggage(), ["kind=tv"]);
}

#[tokio::test]
async fn a_rejection_has_the_precise_wait_and_one_retry_after_header() {
    let layer = ApertureLayer::http(limit("http.method", ""), "ingress");
    assert_eq!(status(&layer, get(&[])).await, 200);
    let hooked = layer
        .clone()
        .on_reject(|rejection: &Rejection, _: RequestHead<'_>| {
            assert_eq!(rejection.reason(), RejectReason::RateLimited);
            let wait = rejection.retry_after().expect("a wait");
            assert!(wait.subsec_nanos() > 0, "at full precision: {wait:?}");
            let secs = rejection.retry_after_secs().expect("a wait").to_string();
            assert_eq!(rejection.headers().expect("some")["retry-after"], secs);
            Response::new(Full::from("no"))
        });
    assert_eq!(status(&hooked, get(&[])).await, 200);
    let service = layer.layer(Seen::default().service());
    let response = service.oneshot(get(&[])).await.expect("a response");
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers().get_all("retry-after").iter().count(), 1);
}

#[tokio::test]
async fn unknown_addresses_of_the_connection_are_no_error() {
    let peer = ClientAddress::of(|ConnectInfo(peer): &ConnectInfo<SocketAddr>| Some(*peer));
    let client = ApertureClient::embedded(limit("aperture.source_fqdns", ""));
    let layer = ApertureLayer::http(client.clone(), "ingress").source(peer);
    assert_eq!(status(&layer, get(&[])).await, 200);
    let mut request = get(&[]);
    request
        .extensions_mut()
        .insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 0))));
    assert_eq!(status(&layer, request).await, 429);
    assert_eq!(client.stats().unreachable, 0);
}

#[tokio::test]
async fn captured_bodies_are_classified() {
    let policy = "
resources:
  flow_control:
    classifiers:
    - selectors: [{control_point: ingress}]
      rules: {user: {extractor: {json: {from: request.http.body, pointer: /user/name}}}}
";
    let seen = Seen::default();
    let layer = ApertureLayer::http(engine(policy), "ingress");
    let service = CaptureBody::new(1024).layer(layer.layer(seen.service()));
    let body = Body::from(r#"{"user": {"name": "ann"}}"#);
    service
        .oneshot(Request::post("/").body(body).expect("a request"))
        .await
        .expect("a response");
    assert_eq!(seen.baggage(), ["user=ann"]);
}

const QUEUE: &str = "
circuit:
  components:
  - flow_control:
      concurrency_scheduler:
        selectors: [{control_point: ingress}]
        in_ports: {max_concurrency: {constant_signal: {value: 1}}}
        concurrency_limiter: {max_inflight_duration: 60s}
        scheduler: {default_workload_parameters: {queue_timeout: 60s}}
";

#[tokio::test(start_paused = true)]
async fn requests_wait_in_queues_and_can_leave_them() {
    let engine = engine(QUEUE);
    let layer = ApertureLayer::http(ApertureClient::embedded(engine), "ingress");
    let layer = layer.check_timeout(Duration::from_secs(30));
    let service = layer.layer(Seen::default().service());

    let first = service.clone().oneshot(get(&[])).await.expect("a response");
    let mut left = Box::pin(service.clone().oneshot(get(&[])));
    let mut second = Box::pin(service.clone().oneshot(get(&[])));
    assert!(
        futures_util::poll!(&mut left).is_pending(),
        "the slot is taken"
    );
    assert!(futures_util::poll!(&mut second).is_pending());
    drop(left);
    drop(first);
    let second = second.await.expect("a response");
    assert_eq!(
        second.status(),
        200,
        "the request that left does not block the queue"
    );

    // The slot is not freed in time.
    let third = service.oneshot(get(&[])).await.expect("a response");
    assert_ne!(third.status(), 200);
    drop(second);
}

#[tokio::test]
async fn labels_beyond_the_limit_are_counted_once() {
    let client = ApertureClient::embedded(engine(CLASSIFIER));
    let limits = LabelLimits {
        count: 1,
        ..LabelLimits::default()
    };
    let layer = ApertureLayer::http(client.clone(), "ingress")
        .label("a b", "1")
        .label("c", "2")
        .label_limits(limits);
    status(&layer, get(&[])).await;
    assert_eq!(
        client.stats().labels_dropped,
        2,
        "one label is over the limit, and one has an invalid key"
    );
}

#[cfg(feature = "test-util")]
#[tokio::test]
async fn a_script_records_the_labels_of_the_flow() {
    let script = tower_aperture::client::Script::new();
    let layer = ApertureLayer::http(script.client(), "ingress").label("service", "shop");
    assert_eq!(status(&layer, get(&[])).await, 200);
    assert_eq!(script.flows()[0].labels["service"], "shop");
}

#[tokio::test]
async fn a_flow_without_a_layer_has_the_http_extras_of_the_decision() {
    let client = ApertureClient::embedded(engine(CLASSIFIER));
    let request = HttpAttributes::new("GET", "/").header("x-kind", "tv");
    let mut flow = client
        .start_http_flow("ingress", FlowParams::new(), &request)
        .await;
    let extras = flow
        .take_http_extras()
        .expect("the classifier made a label");
    assert_eq!(extras.headers()["baggage"], "kind=tv");
    assert!(
        flow.take_http_extras().is_none(),
        "the extras are returned once"
    );
    assert!(flow.should_run());

    let client = ApertureClient::embedded(limit("user", ""));
    for status in [None, Some(429)] {
        let params = FlowParams::new().label("user", "ann");
        let request = HttpAttributes::new("GET", "/");
        let mut flow = client.start_http_flow("ingress", params, &request).await;
        assert_eq!(flow.http_response_code().map(|code| code.as_u16()), status);
        assert_eq!(
            flow.take_http_extras().is_some(),
            status.is_some(),
            "`retry-after`"
        );
    }
}

#[test]
fn an_empty_control_point_is_refused() {
    let error = ApertureLayer::try_http(ApertureClient::disabled(), "").err();
    assert_eq!(
        error.expect("empty").to_string(),
        "the control point is empty"
    );
}
