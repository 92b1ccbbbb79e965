//! Tests an embedded client whose engine limits the flows in flight and queues flows.
#![cfg(feature = "embedded")]

use std::time::Duration;

use tower_aperture::{
    ApertureClient, Check, Decider, Engine, FlowParams, FlowStatus, HttpAttributes, RejectReason,
    Verdict,
};

fn client() -> ApertureClient {
    ApertureClient::embedded(engine())
}

fn engine() -> Engine {
    let engine = Engine::builder()
        .policy_text(
            "slots",
            "
circuit:
  components:
  - flow_control:
      concurrency_limiter:
        selectors: [{control_point: export}]
        in_ports: {max_concurrency: {constant_signal: {value: 1}}}
        parameters: {max_inflight_duration: 60s, limit_by_label_key: user}
  - flow_control:
      concurrency_scheduler:
        selectors: [{control_point: render}]
        in_ports: {max_concurrency: {constant_signal: {value: 1}}}
        concurrency_limiter: {max_inflight_duration: 60s}
        scheduler: {workloads: [{name: all, label_matcher: {}, parameters: {queue_timeout: 5s}}]}
",
        )
        .build();
    engine.expect("the policy is valid")
}

fn ann() -> FlowParams<'static> {
    FlowParams::new().label("user", "ann")
}

#[tokio::test]
async fn the_end_of_a_flow_reports_whether_its_slot_was_returned() {
    let client = client();
    let flow = client.start_flow("export", ann()).await;
    let rejected = client.start_flow("export", ann()).await;
    let rejection = rejected.rejection().expect("the only slot is held");
    assert_eq!(rejection.reason(), RejectReason::RateLimited);

    // A rejected flow holds no slot, so its end returns none.
    let ended = rejected.end().await;
    assert!(!ended.token_returns()[0].returned);
    let ended = flow.end().await;
    let [token] = ended.token_returns() else {
        panic!("expected one returned slot: {ended:?}");
    };
    assert!(token.returned);
    assert_eq!(
        (&*token.policy_name, &*token.component_id, &*token.label),
        ("slots", "root.0", "user:ann")
    );
    assert!(client.start_flow("export", ann()).await.should_run());
}

#[cfg(feature = "remote")]
#[tokio::test]
async fn the_check_response_describes_the_slot_as_an_agent_does() {
    use tower_aperture::pb::check::limiter_decision::Details;

    let client = client();
    let flow = client.start_flow("render", FlowParams::new()).await;
    let response = flow.check_response().expect("the check has a response");
    let decision = &response.limiter_decisions[0];
    let Some(Details::ConcurrencySchedulerInfo(info)) = &decision.details else {
        panic!("expected the details of a concurrency scheduler: {decision:?}");
    };
    assert_eq!((&*info.label, &*info.workload_index), ("default", "all"));
    let tokens = info.tokens_info.as_ref().expect("the decision has tokens");
    assert_eq!((tokens.remaining, tokens.consumed), (1.0, 1.0));
    assert_eq!((info.priority, info.request_id.len()), (1.0, 36));
    let id = info.request_id.clone();
    drop(response);
    assert_eq!(flow.end().await.token_returns()[0].request_id, id);
}

#[tokio::test(start_paused = true)]
async fn a_queued_flow_runs_when_another_flow_returns_its_slot() {
    let client = ApertureClient::embedded_with_check_timeout(engine(), Duration::ZERO);
    let first = client.start_flow("render", FlowParams::new()).await;
    let (second, ()) = tokio::join!(client.start_flow("render", FlowParams::new()), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        first.finish(FlowStatus::Ok);
    });
    assert!(second.should_run());
    // The scheduler rejects the flow up to 10 ms before the queue timeout of its workload.
    let start = tokio::time::Instant::now();
    let third = client.start_flow("render", FlowParams::new()).await;
    let reason = third.rejection().expect("the only slot is held").reason();
    assert_eq!(reason, RejectReason::NoTokens);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(start.elapsed() >= Duration::from_millis(4990));
}

/// Returns how long a flow waits for the only slot, which another flow holds.
async fn measure_wait(client: &ApertureClient, params: FlowParams<'_>) -> Duration {
    let held = client.start_flow("render", FlowParams::new()).await;
    assert!(held.should_run());
    let start = tokio::time::Instant::now();
    let rejected = client.start_flow("render", params.clone()).await;
    let waited = start.elapsed();
    let rejection = rejected.rejection().expect("the only slot is held");
    assert_eq!(rejection.reason(), RejectReason::NoTokens);
    drop(rejected);

    // A layer checks with labels alone, or also with the attributes of a request.
    let request = HttpAttributes::new("GET", "/");
    for http in [false, true] {
        let start = tokio::time::Instant::now();
        let check = match http {
            false => client.decide("render", &params),
            true => client.decide_http("render", &params, &request),
        };
        let Check::Pending(pending) = check else {
            panic!("the only slot is held");
        };
        assert!(matches!(pending.await, Verdict::Rejected(..)));
        assert_eq!(
            start.elapsed(),
            waited,
            "every kind of check waits equally long"
        );
    }
    held.end().await;
    waited
}

#[tokio::test(start_paused = true)]
async fn a_flow_waits_no_longer_than_its_check_timeout_which_is_200_ms_by_default() {
    let millis = Duration::from_millis;
    let client_with = |timeout| ApertureClient::embedded_with_check_timeout(engine(), timeout);
    let with_timeout = |timeout| FlowParams::new().check_timeout(timeout);
    for (client, params, budget) in [
        (client(), FlowParams::new(), millis(200)),
        (client(), with_timeout(millis(1500)), millis(1500)),
        (client_with(millis(800)), FlowParams::new(), millis(800)),
        (
            client_with(millis(800)),
            with_timeout(millis(100)),
            millis(100),
        ),
        // Zero and `Duration::MAX` set no limit, so the queue timeout of 5 s applies.
        (client_with(Duration::ZERO), FlowParams::new(), millis(5000)),
        (client_with(Duration::MAX), FlowParams::new(), millis(5000)),
        (client(), with_timeout(Duration::ZERO), millis(5000)),
        (client(), with_timeout(Duration::MAX), millis(5000)),
        (
            client_with(Duration::ZERO),
            with_timeout(millis(300)),
            millis(300),
        ),
    ] {
        let waited = measure_wait(&client, params).await;
        assert!(waited <= budget, "{waited:?} of {budget:?}");
        assert!(waited + millis(30) >= budget, "{waited:?} of {budget:?}");
    }
    // A flow without time to wait is still decided.
    let without_time = client_with(Duration::from_nanos(1));
    let flow = without_time.start_flow("render", FlowParams::new()).await;
    assert!(flow.rejection().is_some() && flow.error().is_none());
}
