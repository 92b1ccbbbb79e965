//! Tests flows that the caller starts and ends itself: each gets a decision, and each ends once
//! with the status that follows from its work.
#![cfg(feature = "test-util")]

use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use http::StatusCode;
use tower_aperture::client::{Script, ScriptedDecision};
use tower_aperture::{
    ApertureClient, ConnectionState, FlowDecision, FlowErrorKind, FlowParams, FlowStatus,
    RejectReason,
};

fn end_statuses(script: &Script) -> Vec<Option<FlowStatus>> {
    let flows = script.flows();
    flows
        .iter()
        .map(|flow| flow.end.map(|end| end.status))
        .collect()
}

#[tokio::test]
async fn an_ended_flow_has_status_ok_unless_its_status_was_set() {
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
    assert_eq!(end_statuses(&script), statuses.map(Some));
}

#[tokio::test]
async fn dropping_a_flow_ends_it_as_error() {
    let script = Script::new();
    drop(script.client().start_flow("mail", FlowParams::new()).await);
    assert_eq!(end_statuses(&script), [Some(FlowStatus::Error)]);
}

#[tokio::test]
async fn a_rejected_flow_ends_with_status_unset() {
    let script = Script::new();
    script.otherwise(
        ScriptedDecision::reject(RejectReason::RateLimited).wait(Duration::from_millis(1750)),
    );
    let client = script.client();

    let flow = client.start_flow("mail", FlowParams::new()).await;
    assert_eq!(flow.decision(), FlowDecision::Rejected);
    assert!(!flow.should_run() && flow.is_decided());
    assert_eq!(flow.retry_after(), Some(Duration::from_millis(1750)));
    assert_eq!(
        flow.rejection()
            .expect("the flow is rejected")
            .retry_after_secs(),
        Some(2)
    );
    flow.end().await;
    drop(client.start_flow("mail", FlowParams::new()).await);

    assert_eq!(end_statuses(&script), [Some(FlowStatus::Unset); 2]);
}

#[tokio::test]
async fn each_rejection_has_the_status_code_of_its_reason_or_its_own_valid_code() {
    let script = Script::new();
    let client = script.client();
    let cases = [
        (ScriptedDecision::reject(RejectReason::RateLimited), 429),
        (ScriptedDecision::reject(RejectReason::NoTokens), 503),
        (ScriptedDecision::reject(RejectReason::NotSampled), 403),
        (ScriptedDecision::reject(RejectReason::NoMatchingRamp), 403),
        (ScriptedDecision::reject(RejectReason::Unknown), 403),
        (
            ScriptedDecision::reject(RejectReason::RateLimited).denied_code(0),
            429,
        ),
        (
            ScriptedDecision::reject(RejectReason::RateLimited).denied_code(451),
            451,
        ),
        (
            ScriptedDecision::reject(RejectReason::RateLimited).denied_code(200),
            200,
        ),
        (
            ScriptedDecision::reject(RejectReason::NoTokens).denied_code(100),
            503,
        ),
        (
            ScriptedDecision::reject(RejectReason::NoTokens).denied_code(600),
            503,
        ),
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
async fn an_unreachable_flow_runs_unless_it_is_in_ramp_mode() {
    let script = Script::new();
    script.otherwise(ScriptedDecision::unreachable(FlowErrorKind::Unavailable));
    let client = script.client();

    let flow = client.start_flow("mail", FlowParams::new()).await;
    assert_eq!(flow.decision(), FlowDecision::Unreachable);
    assert!(flow.should_run() && !flow.is_decided());
    assert!(
        flow.error()
            .expect("an unreachable flow has an error")
            .is_unavailable()
    );
    assert_eq!(flow.http_response_code(), None);
    assert_eq!(flow.retry_after(), None);
    assert!(
        flow.end().await.error().is_none(),
        "an unreachable flow needs no end at the Agent"
    );

    let flow = client
        .start_flow("mail", FlowParams::new().ramp_mode(true))
        .await;
    assert!(!flow.should_run());
    assert_eq!(
        flow.http_response_code(),
        Some(StatusCode::SERVICE_UNAVAILABLE)
    );
    let rejection = flow
        .rejection()
        .expect("an unreachable flow in ramp mode is rejected");
    assert_eq!(rejection.reason(), RejectReason::Unreachable);
    drop(flow);

    assert_eq!(client.stats().unreachable, 2);
    assert_eq!(client.stats().unavailable, 2);
    assert_eq!(script.in_flight(), 0);
}

#[tokio::test]
async fn a_flow_with_an_empty_control_point_is_not_checked() {
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
async fn a_guard_ends_its_flow_when_its_work_returns_panics_fails_or_is_dropped() {
    let script = Script::new();
    let client = script.client();

    assert_eq!(
        client.guard("mail", FlowParams::new(), async { 7 }).await,
        Ok(7)
    );

    let panics = client.guard("mail", FlowParams::new(), async { panic!("on purpose") });
    assert!(AssertUnwindSafe(panics).catch_unwind().await.is_err());

    let mut abandoned = Box::pin(client.guard("mail", FlowParams::new(), pending::<()>()));
    assert!(abandoned.as_mut().now_or_never().is_none());
    drop(abandoned);

    let fails = client.try_guard("mail", FlowParams::new(), async { Err::<(), _>("no") });
    assert_eq!(fails.await, Ok(Err("no")));

    script.next(ScriptedDecision::reject(RejectReason::NoTokens));
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
        end_statuses(&script),
        [Some(FlowStatus::Ok), error, error, error, unset]
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_check_leaves_no_flow_in_flight() {
    let script = Script::new();
    script.otherwise(ScriptedDecision::accept().after(Duration::from_secs(1)));
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
async fn a_check_ends_as_unreachable_after_the_check_timeout() {
    let script = Script::new();
    script.otherwise(ScriptedDecision::accept().after(Duration::from_secs(1)));
    let client = script.client();

    let start = tokio::time::Instant::now();
    let params = FlowParams::new().check_timeout(Duration::from_millis(200));
    let flow = client.start_flow("mail", params).await;
    assert!(flow.error().expect("the flow is unreachable").is_timeout());
    assert_eq!(start.elapsed(), Duration::from_millis(200));

    let unlimited = FlowParams::new().check_timeout(Duration::ZERO);
    assert!(client.start_flow("mail", unlimited).await.is_decided());
    assert_eq!(client.stats().timeouts, 1);
}

#[tokio::test]
async fn starting_a_flow_leaves_its_parameters_unchanged() {
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
async fn the_client_counts_labels_dropped_beyond_the_limit() {
    let script = Script::new();
    let client = script.client();
    let params = FlowParams::new().labels((0..70).map(|n| (format!("label-{n}"), "x")));
    client.start_flow("mail", params).await.end().await;
    assert_eq!(script.flows()[0].labels.len(), 64);
    assert_eq!(client.stats().labels_dropped, 6);
}

#[tokio::test]
async fn flows_of_a_disabled_client_are_unreachable_and_run() {
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
fn clients_flows_and_tickets_are_send_and_sync() {
    fn assert_send_and_sync<T: Send + Sync + 'static>() {}
    assert_send_and_sync::<ApertureClient>();
    assert_send_and_sync::<tower_aperture::Flow>();
    assert_send_and_sync::<tower_aperture::client::ClientTicket>();
    fn assert_send<T: Send + 'static>() {}
    assert_send::<tower_aperture::client::ClientPending>();
}
