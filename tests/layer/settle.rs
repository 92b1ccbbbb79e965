//! Flows settled by handlers and response bodies, and limiters that count only some outcomes, with
//! the layer over the embedded engine.
#![cfg(feature = "embedded")]

use std::convert::Infallible;
use std::future::{pending, ready};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Extension;
use axum::routing::post;
use futures_util::stream::{self, StreamExt};
use futures_util::{FutureExt, poll};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::engine::{EngineBuilder, ManualClock};
use tower_aperture::layer::FlowHandle;
use tower_aperture::policy::{Policy, RateLimit};
use tower_aperture::{
    ApertureClient, ApertureLayer, Denial, Engine, FlowDecision, FlowError, FlowErrorKind,
    FlowOutcome, RejectReason, SettleError,
};

use crate::layer_support::Recorder;
use crate::layer_support::server::{BOTH, Client, serve};

/// 1000 tokens for each user.
const TOKENS: &str = "
blueprint: rate-limiting/base
policy:
  policy_name: tokens
  rate_limiter:
    bucket_capacity: 1000
    fill_amount: 1000
    parameters: {interval: 3600s, limit_by_label_key: user_id}
    request_parameters: {tokens_label_key: tokens}
    selectors: [{control_point: completions}]
";

fn layer_of(engine: EngineBuilder) -> ApertureLayer<ApertureClient> {
    let engine = engine.clock(ManualClock::new()).build();
    let client = ApertureClient::embedded(engine.expect("the policy is valid"));
    ApertureLayer::new(client, "completions")
        .label_from_header("user_id", "x-user-id")
        .label_from_header("tokens", "x-tokens")
        .rate_limit_headers(true)
        .expose_flow()
}

fn layer() -> ApertureLayer<ApertureClient> {
    layer_of(Engine::builder().policy_text("tokens.yaml", TOKENS))
}

fn request(tokens: u32) -> Request<Body> {
    let request = Request::post("/").header("x-user-id", "ann");
    let request = request.header("x-tokens", tokens).body(Body::empty());
    request.expect("a valid request")
}

fn handle<B>(request: &Request<B>) -> FlowHandle {
    let flow = request.extensions().get::<FlowHandle>();
    flow.expect("the flow is exposed").clone()
}

/// Returns the tokens that are left, by the headers of a flow without tokens.
async fn left(layer: &ApertureLayer<ApertureClient>) -> String {
    let inner = |_: Request<Body>| ready(Ok::<_, Infallible>(Response::new(Body::empty())));
    let response = layer.layer(service_fn(inner)).oneshot(request(0)).await;
    let response = response.expect("infallible");
    assert_eq!(response.status(), 200);
    let limits = response.headers()["ratelimit"].to_str().expect("ASCII");
    let left = limits.split(';').find_map(|part| part.strip_prefix("r="));
    left.expect("the header states the rest").to_owned()
}

/// Streams three frames of ten tokens each, and settles the flow at the end.
async fn complete(Extension(flow): Extension<FlowHandle>) -> Body {
    let frames = stream::iter(["a ", "short ", "poem"]).map(|text| (text, 10.0));
    let state = (frames, 0.0, flow);
    Body::from_stream(stream::unfold(
        state,
        |(mut frames, mut total, flow)| async move {
            match frames.next().await {
                Some((text, tokens)) => {
                    total += tokens;
                    Some((Ok::<_, Infallible>(text), (frames, total, flow)))
                }
                None => {
                    flow.settle(total).expect("the flow has not ended");
                    None
                }
            }
        },
    ))
}

#[tokio::test]
async fn a_streamed_response_is_settled_at_its_end() {
    for version in BOTH {
        let layer = layer();
        let app = Router::new()
            .route("/", post(complete))
            .layer(layer.clone());
        let mut client = Client::connect(version, serve(version, app).await).await;
        let request = Request::post("http://shop.example/")
            .header("host", "shop.example")
            .header("x-user-id", "ann")
            .header("x-tokens", "400");
        let response = client.send(request).await.expect("a response");
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "a short poem");
        assert_eq!(left(&layer).await, "970", "{version:?}");
    }
}

/// Runs a handler, which gets its flow, and reads its response.
async fn run<F>(
    layer: &ApertureLayer<ApertureClient>,
    handler: impl Fn(FlowHandle) -> F + Clone,
) -> FlowHandle
where
    F: Future<Output = Response<Body>>,
{
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let sender = std::sync::Arc::new(std::sync::Mutex::new(Some(sender)));
    let service = layer.layer(service_fn(move |request: Request<Body>| {
        let flow = handle(&request);
        let sender = sender.lock().expect("no panic").take();
        assert!(sender.expect("one request").send(flow.clone()).is_ok());
        let response = handler(flow);
        async move { Ok::<_, Infallible>(response.await) }
    }));
    let response = service.oneshot(request(400)).await.expect("infallible");
    response.into_body().collect().await.expect("a body");
    receiver.await.expect("the handler ran")
}

#[tokio::test]
async fn the_last_settlement_of_a_handler_counts() {
    let layer = layer();
    let flow = run(&layer, |flow| async move {
        for tokens in [700.0, 10.0, 250.0] {
            assert_eq!(flow.settle(tokens), Ok(()));
        }
        let invalid = [f64::NAN, f64::INFINITY, -1.0];
        for tokens in invalid {
            assert_eq!(flow.settle(tokens), Err(SettleError::InvalidTokens));
        }
        Response::new(Body::from("done"))
    })
    .await;
    assert!(flow.is_ended());
    assert_eq!(flow.settle(1.0), Err(SettleError::Ended));
    assert_eq!(left(&layer).await, "750");
}

#[tokio::test]
async fn a_handler_that_settles_nothing_costs_its_estimate() {
    let layer = layer();
    run(&layer, |_| ready(Response::new(Body::empty()))).await;
    assert_eq!(left(&layer).await, "600");
}

#[tokio::test]
async fn a_held_flow_is_settled_after_its_response() {
    let layer = layer();
    let (sender, receiver) = std::sync::mpsc::channel();
    run(&layer, move |flow| {
        sender.send(flow.hold()).expect("the test receives it");
        ready(Response::new(Body::empty()))
    })
    .await;
    assert_eq!(left(&layer).await, "600");
    let hold = receiver.recv().expect("the handler took a hold");
    assert_eq!(hold.flow().settle(100.0), Ok(()));
    let flow = hold.flow().clone();
    drop(hold);
    assert_eq!(flow.settle(5.0), Err(SettleError::Ended));
    assert_eq!(left(&layer).await, "900");
}

#[tokio::test]
async fn a_cancelled_request_costs_what_it_was_settled_for() {
    for (settled, expected) in [(None, "600"), (Some(150.0), "850")] {
        let layer = layer();
        let service = layer.layer(service_fn(move |request: Request<Body>| {
            let flow = handle(&request);
            async move {
                if let Some(tokens) = settled {
                    flow.settle(tokens).expect("the flow has not ended");
                }
                pending::<Result<Response<Body>, Infallible>>().await
            }
        }));
        let mut request = Box::pin(service.oneshot(request(400)));
        assert!(poll!(&mut request).is_pending());
        drop(request);
        assert_eq!(left(&layer).await, expected);
    }
}

#[tokio::test]
async fn a_panicking_handler_costs_what_it_was_settled_for() {
    for (settled, expected) in [(None, "600"), (Some(150.0), "850")] {
        let layer = layer();
        let service = layer.layer(service_fn(move |request: Request<Body>| {
            let flow = handle(&request);
            async move {
                if let Some(tokens) = settled {
                    flow.settle(tokens).expect("the flow has not ended");
                }
                if flow.is_ended() {
                    return Ok::<_, Infallible>(Response::new(Body::empty()));
                }
                panic!("the handler of the test panics");
            }
        }));
        let request = AssertUnwindSafe(service.oneshot(request(400)));
        assert!(request.catch_unwind().await.is_err());
        assert_eq!(left(&layer).await, expected);
    }
}

/// Settles its flow when it is dropped, with what it has sent.
struct SettleOnDrop {
    flow: FlowHandle,
    sent: f64,
}

impl Drop for SettleOnDrop {
    fn drop(&mut self) {
        self.flow.settle(self.sent).expect("the flow has not ended");
    }
}

#[tokio::test]
async fn a_body_that_is_dropped_early_settles_what_was_sent() {
    let layer = layer();
    let service = layer.layer(service_fn(|request: Request<Body>| {
        let state = SettleOnDrop {
            flow: handle(&request),
            sent: 0.0,
        };
        let frames = stream::unfold(state, |mut state| async move {
            state.sent += 10.0;
            Some((Ok::<_, Infallible>("text"), state))
        });
        ready(Ok::<_, Infallible>(Response::new(Body::from_stream(
            frames,
        ))))
    }));
    let response = service.oneshot(request(400)).await.expect("infallible");
    let mut body = response.into_body();
    for _ in 0..3 {
        body.frame().await.expect("endless").expect("infallible");
    }
    drop(body);
    assert_eq!(left(&layer).await, "970");
}

#[tokio::test]
async fn a_flow_that_took_no_tokens_is_settled_without_effect() {
    let enforced = layer();
    let layer = enforced.clone().shadow_mode(true);
    let service = layer.layer(service_fn(|request: Request<Body>| {
        let flow = handle(&request);
        assert_eq!(flow.decision(), FlowDecision::Rejected);
        assert_eq!(flow.settle(50.0), Ok(()));
        ready(Ok::<_, Infallible>(Response::new(Body::empty())))
    }));
    // More tokens than the bucket can hold: nothing is remembered of the rejection.
    service.oneshot(request(2000)).await.expect("infallible");
    assert_eq!(left(&enforced).await, "1000");

    let error = FlowError::new(FlowErrorKind::Timeout, "late");
    let rejection = Denial::new(RejectReason::RateLimited);
    for recorder in [Recorder::unreachable(error), Recorder::rejecting(rejection)] {
        let layer = ApertureLayer::new(recorder, "completions");
        let layer = layer.expose_flow().shadow_mode(true);
        let service = layer.layer(service_fn(|request: Request<Body>| {
            let flow = handle(&request);
            assert_eq!(flow.settle(f64::NAN), Err(SettleError::InvalidTokens));
            assert_eq!(flow.settle(50.0), Ok(()));
            ready(Ok::<_, Infallible>(Response::new(Body::empty())))
        }));
        service.oneshot(request(1)).await.expect("infallible");
    }
}

#[tokio::test]
async fn a_decider_whose_tickets_cannot_be_settled_refuses_at_once() {
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::new(recorder.clone(), "completions").expose_flow();
    let service = layer.layer(service_fn(|request: Request<Body>| {
        assert_eq!(handle(&request).settle(50.0), Err(SettleError::Unsupported));
        ready(Ok::<_, Infallible>(Response::new(Body::empty())))
    }));
    service.oneshot(request(1)).await.expect("infallible");
    assert_eq!(recorder.ends().len(), 1);
}

/// Three failed logins an hour for each user.
fn logins() -> ApertureLayer<ApertureClient> {
    let failed = |outcome: &FlowOutcome| outcome.http_status() == Some(401);
    let limit = RateLimit::per_hour(3).by("user_id").count_only(failed);
    let policy = Policy::new("logins").at("completions").limit(limit);
    layer_of(Engine::builder().policy(policy))
}

/// Answers with the status that the body of the request states, or never.
async fn log_in(body: Bytes) -> StatusCode {
    match &body[..] {
        b"right" => StatusCode::OK,
        b"wrong" => StatusCode::UNAUTHORIZED,
        _ => pending().await,
    }
}

fn login(password: &'static str) -> Request<Body> {
    let request = Request::post("/").header("x-user-id", "ann");
    request.body(Body::from(password)).expect("a valid request")
}

async fn status_of(app: &Router, password: &'static str) -> u16 {
    let response = app.clone().oneshot(login(password)).await;
    let response = response.expect("infallible");
    let status = response.status();
    response.into_body().collect().await.expect("a body");
    status.as_u16()
}

#[tokio::test]
async fn failed_logins_count_and_successful_ones_do_not() {
    let app = Router::new().route("/", post(log_in)).layer(logins());
    for _ in 0..10 {
        assert_eq!(status_of(&app, "right").await, 200);
    }
    for expected in [401, 401] {
        assert_eq!(status_of(&app, "wrong").await, expected);
    }
    assert_eq!(status_of(&app, "right").await, 200);
    assert_eq!(status_of(&app, "wrong").await, 401);
    assert_eq!(status_of(&app, "right").await, 429);
}

#[tokio::test]
async fn concurrent_logins_cannot_exceed_the_limit_while_they_run() {
    let app = Router::new().route("/", post(log_in)).layer(logins());
    let mut running = Vec::new();
    for _ in 0..3 {
        let mut request = Box::pin(app.clone().oneshot(login("slow")));
        assert!(poll!(&mut request).is_pending());
        running.push(request);
    }
    assert_eq!(status_of(&app, "wrong").await, 429);
    assert_eq!(status_of(&app, "right").await, 429);
}

#[tokio::test]
async fn a_login_that_the_client_abandons_counts() {
    let app = Router::new().route("/", post(log_in)).layer(logins());
    for _ in 0..3 {
        let mut request = Box::pin(app.clone().oneshot(login("slow")));
        assert!(poll!(&mut request).is_pending());
        drop(request);
    }
    assert_eq!(status_of(&app, "right").await, 429);
}

#[tokio::test]
async fn outcomes_have_the_grpc_status_of_the_trailers() {
    use crate::layer_support::body::{Script, Step, grpc_status};
    for (code, expected) in [("16", 16), ("0", 0), ("99", 2), ("no", 2)] {
        let recorder = Recorder::accepting();
        let layer = ApertureLayer::new(recorder.clone(), "completions");
        let service = layer.layer(service_fn(move |_: Request<Body>| {
            let body = Script::new([Step::Data("text"), Step::Trailers(grpc_status(code))]);
            ready(Ok::<_, Infallible>(Response::new(body)))
        }));
        let response = service.oneshot(request(1)).await.expect("infallible");
        response.into_body().collect().await.expect("a body");
        let outcome = recorder.ends()[0];
        assert_eq!(outcome.grpc_status(), Some(expected), "{code}");
        assert_eq!(outcome.http_status(), Some(200));
        assert!(!outcome.is_abandoned());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_times_out_within_the_layer_has_an_outcome() {
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::new(recorder.clone(), "completions");
    let inner = service_fn(|_: Request<Body>| pending::<Result<Response<Body>, Infallible>>());
    let inner = tower::timeout::Timeout::new(inner, Duration::from_secs(1));
    assert!(layer.layer(inner).oneshot(request(1)).await.is_err());
    let outcome = recorder.ends()[0];
    assert!(!outcome.is_abandoned());
    assert_eq!(outcome.http_status(), None);
}
