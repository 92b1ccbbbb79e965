//! Flows by hand: each is answered, and each ends once with the status it deserves.
#![cfg(feature = "test-util")]

use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use http::StatusCode;
use tower_aperture::client::{Answer, Script};
use tower_aperture::{
    ApertureClient, ConnectionState, FlowDecision, FlowErrorKind, FlowParams, FlowStatus,
    RejectReason,
};

fn ended(script: &Script) -> Vec<Option<FlowStatus>> {
    let flows = script.flows();
    flows
        .iter()
        .map(|flow| flow.end.map(|end| end.status))
        .collect()
}

#[tokio::test]
async fn an_accepted_flow_that_ends_is_ok_unless_told_otherwise() {
    let script = Script::new();
    let client = script.client();

    let flow = client.start_flow("mail", FlowParams::new()).await;
    assert_eq!(flow.decision(), FlowDecision::Accepted);
    assert!(flow.should_run() && flow.is_decided() && flow.error().is_none());
    assert_eq!(flow.http_response_code(), None);
    assert_eq!(flow.retry_after(), None);
    assert!(flow.end().await.error().is_none());

    let flow = client.start_flow("mail", FlowParams::new()).await;
    flow.set_status(FlowStatus::Error);
    flow.end().await;

    let flow = client.start_flow("mail", FlowParams::new()).await;
    flow.set_status(FlowStatus::Error);
    flow.set_status(FlowStatus::Ok);
    drop(flow);

    let statuses = [FlowStatus::Ok, FlowStatus::Error, FlowStatus::Ok];
    assert_eq!(ended(&script), statuses.map(Some));
}

#[tokio::test]
async fn a_flow_that_is_dropped_ends_as_an_error() {
    let script = Script::new();
    drop(script.client().start_flow("mail", FlowParams::new()).await);
    assert_eq!(ended(&script), [Some(FlowStatus::Error)]);
}

#[tokio::test]
async fn a_rejected_flow_ends_as_unset_by_itself() {
    let script = Script::new();
    script.otherwise(Answer::reject(RejectReason::RateLimited).wait(Duration::from_millis(1750)));
    let client = script.client();

    let flow = client.start_flow("mail", FlowParams::new()).await;
    assert_eq!(flow.decision(), FlowDecision::Rejected);
    assert!(!flow.should_run() && flow.is_decided());
    assert_eq!(flow.retry_after(), Some(Duration::from_millis(1750)));
    assert_eq!(
        flow.rejection().expect("it is rejected").retry_after_secs(),
        Some(2)
    );
    flow.end().await;
    drop(client.start_flow("mail", FlowParams::new()).await);

    assert_eq!(ended(&script), [Some(FlowStatus::Unset); 2]);
}

#[tokio::test]
async fn a_rejection_never_reads_as_success() {
    let script = Script::new();
    let client = script.client();
    let cases = [
        (Answer::reject(RejectReason::RateLimited), 429),
        (Answer::reject(RejectReason::NoTokens), 503),
        (Answer::reject(RejectReason::NotSampled), 403),
        (Answer::reject(RejectReason::NoMatchingRamp), 403),
        (Answer::reject(RejectReason::Unknown), 403),
        (
            Answer::reject(RejectReason::RateLimited).denied_code(0),
            429,
        ),
        (
            Answer::reject(RejectReason::RateLimited).denied_code(451),
            451,
        ),
        (
            Answer::reject(RejectReason::RateLimited).denied_code(200),
            200,
        ),
        (Answer::reject(RejectReason::NoTokens).denied_code(100), 503),
        (Answer::reject(RejectReason::NoTokens).denied_code(600), 503),
    ];
    for (answer, status) in cases {
        script.next(answer);
        let flow = client.start_flow("mail", FlowParams::new()).await;
        let status = StatusCode::from_u16(status).expect("a valid status");
        assert_eq!(flow.http_response_code(), Some(status));
        assert!(!flow.should_run());
    }
}

#[tokio::test]
async fn nobody_answering_lets_the_work_run_but_not_in_ramp_mode() {
    let script = Script::new();
    script.otherwise(Answer::unreachable(FlowErrorKind::Unavailable));
    let client = script.client();

    let flow = client.start_flow("mail", FlowParams::new()).await;
    assert_eq!(flow.decision(), FlowDecision::Unreachable);
    assert!(flow.should_run() && !flow.is_decided());
    assert!(flow.error().expect("there is a reason").is_unavailable());
    assert_eq!(flow.http_response_code(), None);
    assert_eq!(flow.retry_after(), None);
    assert!(
        flow.end().await.error().is_none(),
        "there is nothing to end"
    );

    let flow = client
        .start_flow("mail", FlowParams::new().ramp_mode(true))
        .await;
    assert!(!flow.should_run());
    assert_eq!(
        flow.http_response_code(),
        Some(StatusCode::SERVICE_UNAVAILABLE)
    );
    let rejection = flow.rejection().expect("it must not run");
    assert_eq!(rejection.reason(), RejectReason::Unreachable);
    drop(flow);

    assert_eq!(client.stats().unreachable, 2);
    assert_eq!(client.stats().unavailable, 2);
    assert_eq!(script.in_flight(), 0);
}

#[tokio::test]
async fn an_empty_control_point_is_never_asked_about() {
    let script = Script::new();
    let flow = script.client().start_flow("", FlowParams::new()).await;
    assert_eq!(
        flow.error().map(tower_aperture::FlowError::kind),
        Some(FlowErrorKind::InvalidRequest)
    );
    assert!(flow.should_run());
    assert!(script.flows().is_empty());
}

#[tokio::test]
async fn a_guard_ends_its_flow_whatever_the_work_does() {
    let script = Script::new();
    let client = script.client();

    assert_eq!(
        client.guard("mail", FlowParams::new(), async { 7 }).await,
        Ok(7)
    );

    let panics = client.guard("mail", FlowParams::new(), async { panic!("on purpose") });
    assert!(AssertUnwindSafe(panics).catch_unwind().await.is_err());

    let mut left = Box::pin(client.guard("mail", FlowParams::new(), pending::<()>()));
    assert!(left.as_mut().now_or_never().is_none());
    drop(left);

    let fails = client.try_guard("mail", FlowParams::new(), async { Err::<(), _>("no") });
    assert_eq!(fails.await, Ok(Err("no")));

    script.next(Answer::reject(RejectReason::NoTokens));
    let rejected = client
        .guard("mail", FlowParams::new(), async { panic!("must not run") })
        .await;
    assert_eq!(
        rejected.map_err(|rejection| rejection.reason()),
        Err::<(), _>(RejectReason::NoTokens)
    );

    let error = Some(FlowStatus::Error);
    let unset = Some(FlowStatus::Unset);
    assert_eq!(
        ended(&script),
        [Some(FlowStatus::Ok), error, error, error, unset]
    );
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_while_it_waits_leaves_nothing_in_flight() {
    let script = Script::new();
    script.otherwise(Answer::accept().after(Duration::from_secs(1)));
    let client = script.client();

    let start = client.start_flow("mail", FlowParams::new());
    assert!(
        tokio::time::timeout(Duration::from_millis(10), start)
            .await
            .is_err()
    );

    assert_eq!(script.flows()[0].decision, None);
    assert_eq!(script.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_waited_for_no_longer_than_the_check_timeout() {
    let script = Script::new();
    script.otherwise(Answer::accept().after(Duration::from_secs(1)));
    let client = script.client();

    let begun = tokio::time::Instant::now();
    let params = FlowParams::new().check_timeout(Duration::from_millis(200));
    let flow = client.start_flow("mail", params).await;
    assert!(flow.error().expect("no answer in time").is_timeout());
    assert_eq!(begun.elapsed(), Duration::from_millis(200));

    let patient = FlowParams::new().check_timeout(Duration::ZERO);
    assert!(client.start_flow("mail", patient).await.is_decided());
    assert_eq!(client.stats().timeouts, 1);
}

#[tokio::test]
async fn parameters_can_be_used_again_and_are_never_changed() {
    let script = Script::new();
    let client = script.client();
    let params = FlowParams::new().label("user", "ann").ramp_mode(true);
    for _ in 0..2 {
        client.start_flow("mail", params.clone()).await.end().await;
    }
    assert_eq!(params.labels.get("user"), Some("ann"));
    assert_eq!(params.labels.len(), 1);
    let flows = script.flows();
    assert_eq!(flows[0], flows[1]);
}

#[tokio::test]
async fn labels_beyond_the_limits_are_counted() {
    let script = Script::new();
    let client = script.client();
    let params = FlowParams::new().labels((0..70).map(|n| (format!("label-{n}"), "x")));
    client.start_flow("mail", params).await.end().await;
    assert_eq!(script.flows()[0].labels.len(), 64);
    assert_eq!(client.stats().labels_dropped, 6);
}

#[tokio::test]
async fn a_disabled_client_answers_for_nobody() {
    let client = ApertureClient::disabled();
    let flow = client.start_flow("mail", FlowParams::new()).await;
    assert_eq!(
        flow.error().map(tower_aperture::FlowError::kind),
        Some(FlowErrorKind::Disabled)
    );
    assert!(flow.should_run());
    assert_eq!(client.state(), ConnectionState::Shutdown);
    assert!(!client.wait_ready(Duration::from_millis(1)).await);
    assert!(client.shutdown(Duration::ZERO).await);
}

#[test]
fn handles_travel_between_threads() {
    fn travels<T: Send + Sync + 'static>() {}
    travels::<ApertureClient>();
    travels::<tower_aperture::Flow>();
    travels::<tower_aperture::client::ClientTicket>();
    fn sends<T: Send + 'static>() {}
    sends::<tower_aperture::client::ClientPending>();
}
