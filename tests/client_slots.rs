//! Flows by hand over an engine that holds slots and lets flows wait.
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
    engine.expect("the policy is right")
}

fn ann() -> FlowParams<'static> {
    FlowParams::new().label("user", "ann")
}

#[tokio::test]
async fn the_end_of_a_flow_tells_what_became_of_its_slots() {
    let client = client();
    let flow = client.start_flow("export", ann()).await;
    let refused = client.start_flow("export", ann()).await;
    let rejection = refused.rejection().expect("there is one slot");
    assert_eq!(rejection.reason(), RejectReason::RateLimited);

    // Nothing is held under the name of a flow that was refused.
    let ended = refused.end().await;
    assert!(!ended.token_returns()[0].returned);
    let ended = flow.end().await;
    let [token] = ended.token_returns() else {
        panic!("one slot: {ended:?}");
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
async fn the_answer_is_the_one_an_agent_would_give() {
    use tower_aperture::pb::check::limiter_decision::Details;

    let client = client();
    let flow = client.start_flow("render", FlowParams::new()).await;
    let response = flow.check_response().expect("it was answered");
    let decision = &response.limiter_decisions[0];
    let Some(Details::ConcurrencySchedulerInfo(info)) = &decision.details else {
        panic!("not of a concurrency scheduler: {decision:?}");
    };
    assert_eq!((&*info.label, &*info.workload_index), ("default", "all"));
    let tokens = info.tokens_info.as_ref().expect("it was asked for");
    assert_eq!((tokens.remaining, tokens.consumed), (1.0, 1.0));
    assert_eq!((info.priority, info.request_id.len()), (1.0, 36));
    let id = info.request_id.clone();
    drop(response);
    assert_eq!(flow.end().await.token_returns()[0].request_id, id);
}

#[tokio::test(start_paused = true)]
async fn a_flow_waits_for_the_end_of_another_one() {
    let client = ApertureClient::embedded_with_check_timeout(engine(), Duration::ZERO);
    let first = client.start_flow("render", FlowParams::new()).await;
    let (second, ()) = tokio::join!(client.start_flow("render", FlowParams::new()), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        first.finish(FlowStatus::Ok);
    });
    assert!(second.should_run());
    // Until 10 ms before the timeout of its workload.
    let begun = tokio::time::Instant::now();
    let third = client.start_flow("render", FlowParams::new()).await;
    let reason = third.rejection().expect("there is one slot").reason();
    assert_eq!(reason, RejectReason::NoTokens);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(begun.elapsed() >= Duration::from_millis(4990));
}

/// How long a flow waits for the one slot, which another one keeps.
async fn wait(client: &ApertureClient, params: FlowParams<'_>) -> Duration {
    let held = client.start_flow("render", FlowParams::new()).await;
    assert!(held.should_run());
    let begun = tokio::time::Instant::now();
    let refused = client.start_flow("render", params.clone()).await;
    let waited = begun.elapsed();
    let rejection = refused.rejection().expect("there is one slot");
    assert_eq!(rejection.reason(), RejectReason::NoTokens);
    drop(refused);

    // As a layer asks, with the labels alone or with attributes of a request.
    let request = HttpAttributes::new("GET", "/");
    for http in [false, true] {
        let begun = tokio::time::Instant::now();
        let check = match http {
            false => client.decide("render", &params),
            true => client.decide_http("render", &params, &request),
        };
        let Check::Pending(pending) = check else {
            panic!("there is one slot");
        };
        assert!(matches!(pending.await, Verdict::Rejected(..)));
        assert_eq!(begun.elapsed(), waited, "the same for all");
    }
    held.end().await;
    waited
}

#[tokio::test(start_paused = true)]
async fn a_flow_waits_no_longer_than_its_budget_which_is_200_ms_by_default() {
    let millis = Duration::from_millis;
    let with = |timeout| ApertureClient::embedded_with_check_timeout(engine(), timeout);
    let own = |timeout| FlowParams::new().check_timeout(timeout);
    for (client, params, budget) in [
        (client(), FlowParams::new(), millis(200)),
        (client(), own(millis(1500)), millis(1500)),
        (with(millis(800)), FlowParams::new(), millis(800)),
        (with(millis(800)), own(millis(100)), millis(100)),
        // Zero and for ever are no limit: then the queue timeout of 5 s counts.
        (with(Duration::ZERO), FlowParams::new(), millis(5000)),
        (with(Duration::MAX), FlowParams::new(), millis(5000)),
        (client(), own(Duration::ZERO), millis(5000)),
        (client(), own(Duration::MAX), millis(5000)),
        (with(Duration::ZERO), own(millis(300)), millis(300)),
    ] {
        let waited = wait(&client, params).await;
        assert!(waited <= budget, "{waited:?} of {budget:?}");
        assert!(waited + millis(30) >= budget, "{waited:?} of {budget:?}");
    }
    // One with no time at all is decided about, at once.
    let hurried = with(Duration::from_nanos(1));
    let flow = hurried.start_flow("render", FlowParams::new()).await;
    assert!(flow.rejection().is_some() && flow.error().is_none());
}
