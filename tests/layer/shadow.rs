//! Shadow mode: the layer decides and records, but never rejects a request or delays it.
#![cfg(all(feature = "embedded", feature = "remote"))]

use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex};

use crate::layer_support::inner::{Body, denial, hello};
use crate::layer_support::{Answer, HANG, Recorder};
use crate::support::agent::{FakeAgent, Reply, answer, text};
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::BodyExt;
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

/// An inner service that records the decision and the rejection in the extensions; it receives no
/// headers of the layer.
fn inner(
    seen: &Seen,
) -> impl Service<Request<()>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + use<>
{
    let seen = seen.clone();
    service_fn(move |request: Request<()>| {
        assert!(
            request.headers().is_empty(),
            "the headers are as the client sent them"
        );
        let extensions = request.extensions();
        let decision = (extensions.get().copied(), extensions.get().cloned());
        seen.lock().expect("no panic").push(decision);
        ready(Ok::<_, Infallible>(hello()))
    })
}

fn shadow<D: Decider>(decider: D) -> ApertureLayer<D> {
    ApertureLayer::new(decider, "checkout")
        .insert_decision(true)
        .shadow_mode(true)
}

#[tokio::test]
async fn a_rejected_request_runs_and_has_its_rejection_in_the_extensions() {
    let (recorder, seen) = (Recorder::rejecting(denial()), Seen::default());
    let service = shadow(recorder.clone()).layer(inner(&seen));
    let response = service.oneshot(Request::new(())).await.expect("infallible");
    assert_eq!(response.status(), 200);
    assert!(response.headers().is_empty());
    assert!(recorder.ends().is_empty(), "the body has not ended");
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
async fn the_extensions_have_a_decision_only_when_configured() {
    let (recorder, seen) = (Recorder::rejecting(denial()), Seen::default());
    let layer = shadow(recorder).insert_decision(false);
    let response = layer.layer(inner(&seen)).oneshot(Request::new(())).await;
    assert_eq!(response.expect("infallible").status(), 200);
    assert_eq!(*seen.lock().expect("no panic"), [(None, None)]);
}

#[tokio::test]
async fn a_late_rejection_rejects_no_request() {
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
async fn an_unreachable_request_runs_with_every_failure_mode() {
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
        let decision = seen.lock().expect("no panic").remove(0);
        assert_eq!(decision, (Some(FlowDecision::Unreachable), None));
    }
}

#[tokio::test]
async fn no_scheduler_delays_a_shadowed_flow_and_its_slot_is_returned() {
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
    let send = || service.clone().oneshot(Request::new(()));
    let first = send().await.expect("infallible");
    let second = send().now_or_never().expect("no wait").expect("infallible");
    assert_eq!(second.status(), 200);
    let stats = client.stats();
    assert_eq!((stats.accepted, stats.rejected, stats.shadowed), (1, 1, 1));
    drop((first, second));
    drop(send().now_or_never().expect("no wait"));
    assert_eq!(client.stats().accepted, 2, "the slot was free");
    let decisions: Vec<_> = seen
        .lock()
        .expect("no panic")
        .iter()
        .map(|seen| seen.0)
        .collect();
    let (yes, no) = (Some(FlowDecision::Accepted), Some(FlowDecision::Rejected));
    assert_eq!(decisions, [yes, no, yes]);

    // A flow without a layer does not wait either, and reports the actual decision.
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
    let headers = rejection.headers().expect("the rejection has headers");
    assert!(headers.contains_key("retry-after"));
}

#[tokio::test]
async fn unenforced_limits_send_no_rate_limit_headers() {
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
async fn the_span_has_the_decision_of_the_agent_and_the_status_of_the_work() {
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
    let response = text(&spans[0], "aperture.check_response").expect("the decision");
    let response = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, response);
    let response: tower_aperture::pb::check::CheckResponse =
        prost::Message::decode(&*response.expect("base64")).expect("a message");
    assert_eq!(response.reject_reason, Reason::RateLimited as i32);
}

#[tokio::test]
async fn shadowed_outgoing_requests_are_sent() {
    let recorder = Recorder::rejecting(denial());
    let layer = shadow(recorder.clone()).into_client();
    let service = layer.layer(inner(&Seen::default()));
    let response = service.oneshot(Request::new(())).await.expect("sent");
    response.into_body().collect().await.expect("a body");
    assert_eq!(recorder.end(), (Fine, Some(200)));
}
