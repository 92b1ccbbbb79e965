//! The caller's deadline: `grpc-timeout` shortens the budget, and a late call does not run.

use std::pin::pin;
use std::time::Duration;

use futures_util::poll;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::FlowStatus::{Ok as Fine, Unset};
use tower_aperture::client::{Script, ScriptedDecision as Scripted};
use tower_aperture::{
    ApertureClient, ApertureLayer, Denial, Engine, FailureMode, FlowError, FlowErrorKind,
    RejectReason, Rejection, RequestHead,
};

use crate::layer_support::inner::{Body, hello};
use crate::layer_support::{Answer, Recorder};
use crate::reading::{Inner, request, send};
use crate::support::agent::{FakeAgent, Reply, answer};

const GRPC: (&str, &str) = ("content-type", "application/grpc");
const MS: Duration = Duration::from_millis(1);

/// Builds a call whose caller waits for `timeout`.
fn call(timeout: &str) -> Request<()> {
    request("POST /shop.Carts/Add", &[GRPC, ("grpc-timeout", timeout)])
}

fn is_deadline_exceeded(head: &http::response::Parts) -> bool {
    head.status == 200 && head.headers["grpc-status"] == "4"
}

/// Advances the paused clock.
async fn advance(time: Duration) {
    tokio::time::advance(time).await;
}

#[tokio::test]
async fn a_call_whose_deadline_has_passed_is_answered_without_a_check() {
    for timeout in ["0n", "0u", "0m", "0S", "0M", "00000000H"] {
        for change in [
            (|layer| layer) as fn(ApertureLayer<Recorder>) -> ApertureLayer<Recorder>,
            |layer| layer.shadow_mode(true),
            |layer| layer.on_unreachable(FailureMode::Open),
            |layer| layer.expose_flow(),
            |layer| layer.check_timeout(Duration::ZERO),
        ] {
            let recorder = Recorder::accepting();
            let layer = change(ApertureLayer::new(recorder.clone(), "checkout"));
            let inner = Inner::default();
            assert!(is_deadline_exceeded(
                &send(&layer, &inner, call(timeout)).await
            ));
            assert_eq!(inner.ran(), 0, "{timeout}");
            assert!(recorder.asked().is_empty());
        }
        // The same with CheckHTTP.
        let recorder = Recorder::accepting();
        let layer = ApertureLayer::http(recorder.clone(), "checkout");
        let inner = Inner::default();
        let Ok(response) = layer.layer(inner.clone()).oneshot(call(timeout)).await;
        assert_eq!(response.headers()["grpc-status"], "4");
        assert_eq!((inner.ran(), recorder.asked().len()), (0, 0));
    }
}

#[tokio::test]
async fn a_late_caller_without_grpc_content_type_gets_a_504_and_the_hook_the_reason() {
    let layer = ApertureLayer::new(Recorder::accepting(), "checkout");
    let late = || request("POST /shop.Carts/Add", &[("grpc-timeout", "0n")]);
    let inner = Inner::default();
    let head = send(&layer, &inner, late()).await;
    assert_eq!(head.status, 504);
    let layer = layer.on_reject(|rejection: &Rejection, _: RequestHead<'_>| {
        assert_eq!(rejection.reason(), RejectReason::DeadlineExceeded);
        assert_eq!(rejection.control_point(), "checkout");
        let mut response = Response::new(Body::from("too late"));
        *response.status_mut() = http::StatusCode::IM_A_TEAPOT;
        response
    });
    assert_eq!(send(&layer, &inner, late()).await.status, 418);
    assert_eq!(inner.ran(), 0);
}

#[tokio::test]
async fn an_invalid_deadline_is_ignored() {
    for timeout in [
        "",
        "S",
        "0",
        "0s",
        "-1S",
        "+0S",
        "0.0S",
        "000000000S",
        "100000000H",
        "1 S",
        "0n,1S",
        "NaN",
        "0x0S",
        "\u{e9}",
    ] {
        let script = Script::new();
        let layer = ApertureLayer::new(script.client(), "checkout");
        let inner = Inner::default();
        send(&layer, &inner, call(timeout)).await;
        assert_eq!(inner.ran(), 1, "{timeout:?}");
        assert_eq!(script.flows()[0].check_timeout, None, "{timeout:?}");
    }
    // The header counts for gRPC calls only.
    let script = Script::new();
    let layer = ApertureLayer::new(script.client(), "checkout");
    let inner = Inner::default();
    send(&layer, &inner, request("GET /", &[("grpc-timeout", "0n")])).await;
    // The layer ignores the deadline of a skipped request.
    let layer = layer.skip(|_| true);
    send(&layer, &inner, call("0n")).await;
    assert_eq!(inner.ran(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_shortens_the_budget_and_never_lengthens_it() {
    for (own, timeout, expected) in [
        (None, "10m", Some(10 * MS)),
        (
            None,
            "99999999H",
            Some(Duration::from_secs(99_999_999 * 3600)),
        ),
        (Some(50 * MS), "10m", Some(10 * MS)),
        (Some(50 * MS), "51000u", Some(50 * MS)),
        (Some(50 * MS), "10S", Some(50 * MS)),
        (Some(50 * MS), "99999999H", Some(50 * MS)),
        // The layer's own timeout is unlimited.
        (Some(Duration::ZERO), "2S", Some(2000 * MS)),
        (Some(Duration::MAX), "3M", Some(180_000 * MS)),
    ] {
        let script = Script::new();
        let mut layer = ApertureLayer::new(script.client(), "checkout");
        if let Some(own) = own {
            layer = layer.check_timeout(own);
        }
        let inner = Inner::default();
        send(&layer, &inner, call(timeout)).await;
        let found = script.flows()[0].check_timeout;
        assert_eq!(found, expected, "{own:?} {timeout}");
        assert_eq!(inner.ran(), 1);
    }
}

/// Returns a client that waits a minute for its Agent.
fn minute_client(agent: &FakeAgent) -> ApertureClient {
    ApertureClient::builder()
        .address(agent.address())
        .insecure(true)
        .check_timeout(Duration::from_secs(60))
        .build()
        .expect("a client")
}

#[tokio::test]
async fn the_deadline_of_a_check_does_not_exceed_that_of_the_caller() {
    let agent = FakeAgent::start();
    let client = minute_client(&agent);
    for http in [false, true] {
        for (timeout, least, most) in [
            ("40S", 1, 40),
            ("50000000u", 1, 50),
            ("10H", 41, 60),
            ("99999999H", 41, 60),
        ] {
            let inner = Inner::default();
            if http {
                let layer = ApertureLayer::http(client.clone(), "checkout");
                let Ok(_) = layer.layer(inner.clone()).oneshot(call(timeout)).await;
            } else {
                let layer = ApertureLayer::new(client.clone(), "checkout");
                send(&layer, &inner, call(timeout)).await;
            }
            assert_eq!(inner.ran(), 1, "{timeout}");
            let calls = agent.calls();
            let sent = calls.last().expect("a check").timeout.clone();
            let sent = sent.expect("a deadline");
            let seconds = in_seconds(&sent);
            assert!(
                (f64::from(least)..=f64::from(most)).contains(&seconds),
                "{timeout}: {sent}"
            );
        }
    }
}

/// Converts a `grpc-timeout` to seconds.
fn in_seconds(timeout: &str) -> f64 {
    let (amount, unit) = timeout.split_at(timeout.len() - 1);
    let amount: f64 = amount.parse().expect("digits");
    amount
        * match unit {
            "n" => 1e-9,
            "u" => 1e-6,
            "m" => 1e-3,
            "S" => 1.0,
            "M" => 60.0,
            "H" => 3600.0,
            other => panic!("unit {other}"),
        }
}

/// An inner service that records the headers of its requests.
fn recording(
    seen: &std::sync::Arc<std::sync::Mutex<Vec<HeaderMap>>>,
) -> impl Service<Request<()>, Response = Response<Body>, Error = std::convert::Infallible, Future: Send>
+ Clone
+ use<> {
    let seen = seen.clone();
    service_fn(move |request: Request<()>| {
        seen.lock()
            .expect("no panic")
            .push(request.headers().clone());
        std::future::ready(Ok(hello()))
    })
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_during_the_check_prevents_the_call() {
    let late = [
        Answer::Accept,
        Answer::Reject(Denial::new(RejectReason::RateLimited)),
        Answer::Unreachable(FlowError::new(FlowErrorKind::Timeout, "")),
        Answer::Unreachable(FlowError::new(FlowErrorKind::Unavailable, "")),
    ];
    for shadow in [false, true] {
        for answer in late.clone() {
            let recorder = Recorder::by_hand();
            let layer = ApertureLayer::new(recorder.clone(), "checkout")
                .shadow_mode(shadow)
                .on_unreachable(FailureMode::Open);
            let inner = Inner::default();
            let mut response = pin!(layer.layer(inner.clone()).oneshot(call("100m")));
            assert!(poll!(&mut response).is_pending());
            advance(100 * MS).await;
            let decided = !matches!(answer, Answer::Unreachable(_));
            recorder.answer(answer);
            let Ok(response) = response.await;
            assert_eq!(response.headers()["grpc-status"], "4");
            assert_eq!(inner.ran(), 0);
            // Granted tokens are returned.
            let expected: &[_] = if decided { &[(Unset, Some(200))] } else { &[] };
            let ends: Vec<_> = recorder.ends().into_iter().map(outcome).collect();
            assert_eq!(ends, expected);
        }
    }
}

fn outcome(end: tower_aperture::FlowOutcome) -> (tower_aperture::FlowStatus, Option<u16>) {
    (end.status, end.http_status.map(|status| status.as_u16()))
}

#[tokio::test(start_paused = true)]
async fn a_timely_call_runs_with_the_remaining_time_in_its_header() {
    let seen = std::sync::Arc::default();
    for (timeout, wait, left) in [
        ("100m", 40 * MS, "60000000n"),
        (
            "100m",
            100 * MS - Duration::from_nanos(1_000_001),
            "1000001n",
        ),
        ("1S", 300 * MS, "700000u"),
        ("99999999H", Duration::from_secs(3600), "99999998H"),
    ] {
        let recorder = Recorder::by_hand();
        let layer = ApertureLayer::new(recorder.clone(), "checkout");
        let mut response = pin!(layer.layer(recording(&seen)).oneshot(call(timeout)));
        assert!(poll!(&mut response).is_pending());
        advance(wait).await;
        recorder.answer(Answer::Accept);
        let Ok(_) = response.await;
        let headers = seen
            .lock()
            .expect("no panic")
            .pop()
            .expect("the service ran");
        let sent = headers["grpc-timeout"].to_str().expect("text");
        assert_eq!(sent, left, "{timeout}");
    }
    // Without a wait the header stays unchanged, and so does an invalid one.
    let layer = ApertureLayer::new(Recorder::accepting(), "checkout");
    for timeout in ["100m", "whenever"] {
        let Ok(_) = layer.layer(recording(&seen)).oneshot(call(timeout)).await;
        let headers = seen
            .lock()
            .expect("no panic")
            .pop()
            .expect("the service ran");
        assert_eq!(headers["grpc-timeout"], timeout);
    }
}

const QUEUE: &str = "
blueprint: quota-scheduling/base
policy:
  policy_name: queue
  quota_scheduler:
    bucket_capacity: 1
    fill_amount: 1
    rate_limiter: {interval: 10s}
    scheduler: {default_workload_parameters: {queue_timeout: 60s}}
    selectors: [{control_point: api}]
";

fn queued() -> ApertureClient {
    let engine = Engine::builder().policy_text("queue", QUEUE).build();
    ApertureClient::embedded(engine.expect("a policy"))
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_in_a_queue_only_until_its_deadline() {
    for http in [false, true] {
        let client = queued();
        let inner = Inner::default();
        let send = async |timeout: &str| {
            let start = tokio::time::Instant::now();
            let wait = Duration::from_secs(120);
            let head = if http {
                let layer = ApertureLayer::http(client.clone(), "api").check_timeout(wait);
                let Ok(response) = layer.layer(inner.clone()).oneshot(call(timeout)).await;
                response.into_parts().0
            } else {
                let layer = ApertureLayer::new(client.clone(), "api").check_timeout(wait);
                send(&layer, &inner, call(timeout)).await
            };
            (head, start.elapsed())
        };
        send("1H").await;
        assert_eq!(inner.ran(), 1, "the bucket had a token");
        for (timeout, most) in [("0m", 0), ("1n", 1), ("100m", 101), ("9S", 9001)] {
            let (head, took) = send(timeout).await;
            assert!(head.headers.contains_key("grpc-status"), "{timeout}");
            assert!(took <= most * MS, "{timeout}: {took:?}");
            assert_eq!(inner.ran(), 1, "{timeout}");
        }
        let (head, took) = send("1H").await;
        assert!(!head.headers.contains_key("grpc-status"));
        assert_eq!(inner.ran(), 2);
        assert!(took <= Duration::from_secs(11), "{took:?}");
    }
}

#[tokio::test]
async fn a_call_does_not_run_if_its_agent_answers_after_the_deadline() {
    let agent = FakeAgent::start();
    agent.on_check(|_| Reply::Hang);
    let layer = || ApertureLayer::new(minute_client(&agent), "checkout");
    let inner = Inner::default();
    for timeout in ["1n", "1u", "1m", "150m"] {
        let head = send(&layer(), &inner, call(timeout)).await;
        assert!(is_deadline_exceeded(&head), "{timeout}");
    }
    assert_eq!(inner.ran(), 0);
    // A decision after the deadline does not let the call run either.
    agent.on_check(|request| Reply::After(Duration::from_millis(120), answer::accepted(request)));
    let head = send(&layer(), &inner, call("100m")).await;
    assert!(is_deadline_exceeded(&head));
    assert_eq!(inner.ran(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_flow_granted_after_the_deadline_ends_with_the_response() {
    let script = Script::new();
    script.next(Scripted::accept().after(500 * MS));
    let layer = ApertureLayer::new(script.client(), "checkout").check_timeout(Duration::ZERO);
    let inner = Inner::default();
    let head = send(&layer, &inner, call("499m")).await;
    assert!(is_deadline_exceeded(&head));
    assert_eq!((inner.ran(), script.in_flight()), (0, 0));

    // A timely grant lets the call run, and its flow ends with the body.
    script.next(Scripted::accept().after(498 * MS));
    let layer = layer.layer(inner.clone());
    let Ok(response) = layer.oneshot(call("499m")).await;
    response.into_body().collect().await.expect("a body");
    assert_eq!(inner.ran(), 1);
    let end = script.flows()[1].end.expect("the flow has ended");
    assert_eq!(end.status, Fine);
}
