//! Shadow mode: decide, record, never reject, never wait.
#![cfg(all(feature = "embedded", feature = "remote"))]

mod layer_support;
mod support;

use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use layer_support::inner::{Body, denial, hello};
use layer_support::{Answer, HANG, Recorder};
use support::agent::{FakeAgent, Reply, answer, text};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::FlowStatus::{Error, Ok as Fine};
use tower_aperture::engine::ManualClock;
use tower_aperture::pb::check::check_response::RejectReason as Reason;
use tower_aperture::{
    ApertureClient, ApertureLayer, Decider, Engine, FailureMode, FlowDecision, FlowError,
    FlowErrorKind, FlowParams, RejectReason, Rejection,
};

const USERS: &str = "
blueprint: rate-limiting/base
policy:
  policy_name: users
  rate_limiter:
    bucket_capacity: 1
    fill_amount: 1
    parameters: {interval: 3600s}
    selectors: [{control_point: checkout}]
";

type Seen = Arc<Mutex<Vec<(Option<FlowDecision>, Option<Rejection>)>>>;

/// An inner service that notes what it is told of the decision, and by nothing else.
fn inner(
    seen: &Seen,
) -> impl Service<Request<()>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + use<>
{
    let seen = seen.clone();
    service_fn(move |request: Request<()>| {
        assert!(request.headers().is_empty(), "as it was sent");
        let extensions = request.extensions();
        let told = (extensions.get().copied(), extensions.get().cloned());
        seen.lock().expect("no panic").push(told);
        ready(Ok::<_, Infallible>(hello()))
    })
}

fn shadow<D: Decider>(decider: D) -> ApertureLayer<D> {
    ApertureLayer::new(decider, "checkout")
        .insert_decision(true)
        .shadow_mode(true)
}

#[tokio::test]
async fn a_rejected_request_runs_and_knows_of_it() {
    let (recorder, seen) = (Recorder::rejecting(denial()), Seen::default());
    let service = shadow(recorder.clone()).layer(inner(&seen));
    let response = service.oneshot(Request::new(())).await.expect("infallible");
    assert_eq!(response.status(), 200);
    assert!(response.headers().is_empty());
    assert!(recorder.ends().is_empty(), "the body is on its way");
    let body = response.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), "hello");
    assert_eq!(recorder.end(), (Fine, Some(200)));
    let (decision, rejection) = seen.lock().expect("no panic").remove(0);
    assert_eq!(decision, Some(FlowDecision::Rejected));
    let rejection = rejection.expect("a rejection");
    assert_eq!(rejection.reason(), RejectReason::RateLimited);
    assert_eq!(rejection.control_point(), "checkout");
}

#[tokio::test]
async fn without_asking_the_service_sees_nothing() {
    let (recorder, seen) = (Recorder::rejecting(denial()), Seen::default());
    let layer = shadow(recorder).insert_decision(false);
    let response = layer.layer(inner(&seen)).oneshot(Request::new(())).await;
    assert_eq!(response.expect("infallible").status(), 200);
    assert_eq!(*seen.lock().expect("no panic"), [(None, None)]);
}

#[tokio::test]
async fn a_decision_that_was_awaited_rejects_nobody_either() {
    let (recorder, seen) = (Recorder::by_hand(), Seen::default());
    let service = shadow(recorder.clone()).layer(inner(&seen));
    let response = tokio::spawn(service.oneshot(Request::new(())));
    recorder.asked_once().await;
    recorder.answer(Answer::Reject(denial()));
    let response = response.await.expect("no panic").expect("infallible");
    assert_eq!(response.status(), 200);
    drop(response);
    assert_eq!(
        recorder.ended().await,
        (Error, Some(200)),
        "the client left"
    );
    let (decision, _) = seen.lock().expect("no panic").remove(0);
    assert_eq!(decision, Some(FlowDecision::Rejected));
}

#[tokio::test]
async fn who_nobody_decides_about_runs_whatever_was_said() {
    let layers: [fn(_) -> _; 3] = [
        |layer: ApertureLayer<Recorder>| layer,
        |layer| layer.ramp_mode(true),
        |layer| layer.on_unreachable(FailureMode::Closed),
    ];
    for with in layers {
        let error = FlowError::new(FlowErrorKind::Timeout, "");
        let seen = Seen::default();
        let layer = with(shadow(Recorder::unreachable(error)));
        let response = layer.layer(inner(&seen)).oneshot(Request::new(())).await;
        assert_eq!(response.expect("infallible").status(), 200);
        let told = seen.lock().expect("no panic").remove(0);
        assert_eq!(told, (Some(FlowDecision::Unreachable), None));
    }
}

#[tokio::test]
async fn no_scheduler_makes_a_shadow_wait_and_slots_are_given_back() {
    let text = "
circuit:
  components:
  - flow_control:
      concurrency_scheduler:
        selectors: [{control_point: checkout}]
        in_ports: {max_concurrency: {constant_signal: {value: 1}}}
        concurrency_limiter: {max_inflight_duration: 3600s}
        scheduler: {default_workload_parameters: {queue_timeout: 60s}}
";
    let engine = Engine::builder().policy_text("one", text);
    let engine = engine.clock(ManualClock::new()).build().expect("a policy");
    let client = ApertureClient::embedded(engine);
    let seen = Seen::default();
    let service = shadow(client.clone()).check_http().layer(inner(&seen));
    let ask = || service.clone().oneshot(Request::new(()));
    let first = ask().await.expect("infallible");
    let second = ask().now_or_never().expect("no wait").expect("infallible");
    assert_eq!(second.status(), 200);
    let stats = client.stats();
    assert_eq!((stats.accepted, stats.rejected, stats.shadowed), (1, 1, 1));
    drop((first, second));
    drop(ask().now_or_never().expect("no wait"));
    assert_eq!(client.stats().accepted, 2, "the slot was free");
    let told: Vec<_> = seen
        .lock()
        .expect("no panic")
        .iter()
        .map(|told| told.0)
        .collect();
    let (yes, no) = (Some(FlowDecision::Accepted), Some(FlowDecision::Rejected));
    assert_eq!(told, [yes, no, yes]);

    // By hand the same, and the decision is told as it is.
    let params = || FlowParams::new().shadow(true);
    let holds = client.start_flow("checkout", params()).await;
    let flow = client.start_flow("checkout", params());
    let flow = flow.now_or_never().expect("no wait");
    assert_eq!(flow.decision(), FlowDecision::Rejected);
    assert_eq!(client.stats().shadowed, 2);
    drop(holds);
}

#[tokio::test]
async fn headers_for_rejected_clients_do_not_reach_the_service() {
    let engine = Engine::builder().policy_text("users", USERS).build();
    let client = ApertureClient::embedded(engine.expect("a policy"));
    let layer = shadow(client.clone()).check_http();
    let seen = Seen::default();
    for _ in 0..2 {
        let response = layer.layer(inner(&seen)).oneshot(Request::new(())).await;
        assert_eq!(response.expect("infallible").status(), 200);
    }
    assert_eq!(client.stats().shadowed, 1);
    let (_, rejection) = seen.lock().expect("no panic").remove(1);
    let rejection = rejection.expect("the second");
    let headers = rejection.headers().expect("an answer has headers");
    assert!(headers.contains_key("retry-after"));
}

#[tokio::test]
async fn limits_that_are_not_enforced_are_not_told() {
    let engine = Engine::builder().policy_text("users", USERS).build();
    let client = ApertureClient::embedded(engine.expect("a policy"));
    let layer = shadow(client.clone()).rate_limit_headers(true);
    for _ in 0..2 {
        let service = layer.layer(inner(&Seen::default()));
        let response = service.oneshot(Request::new(())).await.expect("infallible");
        assert_eq!(response.status(), 200);
        assert!(response.headers().is_empty());
    }
    assert_eq!(client.stats().shadowed, 1);
}

#[tokio::test]
async fn an_agent_hears_what_it_decided_and_how_the_work_went() {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::rejected(request, Reason::RateLimited)));
    let client = ApertureClient::builder().address(agent.address());
    let client = client.insecure(true).check_timeout(HANG).build();
    let client = client.expect("a client");
    let service = shadow(client.clone()).layer(inner(&Seen::default()));
    let response = service.oneshot(Request::new(())).await.expect("infallible");
    response.into_body().collect().await.expect("a body");
    assert!(client.shutdown(HANG).await);
    let stats = client.stats();
    assert_eq!((stats.rejected, stats.shadowed), (1, 1));
    let spans = agent.spans();
    assert_eq!(spans.len(), 1);
    assert_eq!(
        text(&spans[0], "aperture.flow.status").as_deref(),
        Some("OK")
    );
    assert_eq!(text(&spans[0], "http.status_code").as_deref(), Some("200"));
    let told = text(&spans[0], "aperture.check_response").expect("the answer");
    let told = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, told);
    let told: tower_aperture::pb::check::CheckResponse =
        prost::Message::decode(&*told.expect("base64")).expect("a message");
    assert_eq!(told.reject_reason, Reason::RateLimited as i32);
}

#[tokio::test]
async fn shadows_of_clients_are_sent() {
    let recorder = Recorder::rejecting(denial());
    let layer = shadow(recorder.clone()).into_client();
    let service = layer.layer(inner(&Seen::default()));
    let response = service.oneshot(Request::new(())).await.expect("sent");
    response.into_body().collect().await.expect("a body");
    assert_eq!(recorder.end(), (Fine, Some(200)));
}
