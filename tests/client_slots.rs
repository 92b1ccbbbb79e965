//! Flows by hand over an engine that holds slots and lets flows wait.
#![cfg(feature = "embedded")]

use std::time::Duration;

use tower_aperture::{ApertureClient, Engine, FlowParams, FlowStatus, RejectReason};

fn client() -> ApertureClient {
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
    ApertureClient::embedded(engine.expect("the policy is right"))
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
    let client = client();
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
