//! Log lines about failing open: they report the Agent, the reason, the consequence, the duration
//! and the number of flows.

use std::time::Duration;

use tonic::Status;
use tower_aperture::{ApertureClient, FlowDecision, FlowParams};
use tracing::Level;

use super::support::agent::{FakeAgent, Reply, answer};
use super::support::logs::LogLines;
use super::{LONG, accepted, builder};

async fn start_unreachable(client: &ApertureClient, params: FlowParams<'_>) {
    let flow = client.start_flow("checkout", params).await;
    assert_eq!(flow.decision(), FlowDecision::Unreachable);
}

#[tokio::test]
async fn a_warning_reports_requests_without_limits_and_the_recovery_reports_their_number() {
    let (lines, _guard) = LogLines::collect(Level::INFO);
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::limited(request)));
    let client = builder(&[&agent])
        .breaker(0, LONG)
        .build()
        .expect("a client");
    drop(accepted(&client).await);
    agent.kill();
    for _ in 0..7 {
        start_unreachable(&client, FlowParams::new()).await;
    }
    let address = format!("agent=\"{}\"", agent.address());
    let warning = [
        "WARN",
        &address,
        "reason=",
        "requests now run without limits",
    ];
    assert_eq!(lines.with(&warning).len(), 1, "one warning for each outage");
    for _ in 0..2 {
        start_unreachable(&client, FlowParams::new().ramp_mode(true)).await;
    }
    let warning = [
        "WARN",
        &address,
        "reason=",
        "fail closed",
        "are now rejected",
    ];
    assert_eq!(lines.with(&warning).len(), 1);
    assert!(lines.with(&["decides again"]).is_empty());
    agent.restart();
    for _ in 0..3 {
        drop(accepted(&client).await);
    }
    let recovery = lines.with(&["INFO", "the Aperture agent decides again", "lasted="]);
    assert_eq!(recovery.len(), 1, "{recovery:?}");
    assert!(
        recovery[0].contains("ran=7 ") && recovery[0].contains("refused=2"),
        "{recovery:?}"
    );
}

#[tokio::test]
async fn the_warning_about_an_agent_that_is_given_up_names_its_address_reasons_and_consequence() {
    let (lines, _guard) = LogLines::collect(Level::INFO);
    let agents = [FakeAgent::start(), FakeAgent::start()];
    let client = builder(&[&agents[0], &agents[1]])
        .breaker(1, Duration::from_millis(20))
        .build()
        .expect("a client");
    assert!(client.wait_ready(LONG).await);
    let given_up = |at: usize| client.agents()[at].given_up;
    let follows = [
        "flows go to the other agents",
        "requests run without limits",
    ];
    for (at, follows) in follows.into_iter().enumerate() {
        agents[at].kill();
        while !given_up(at) {
            drop(client.start_flow("checkout", FlowParams::new()).await);
        }
        let address = format!("agent=\"{}\"", agents[at].address());
        let line = [
            "WARN",
            &address,
            "reason=",
            "checks=",
            "is given up",
            follows,
        ];
        assert_eq!(
            lines.with(&line).len(),
            1,
            "{:?}",
            lines.with(&["given up"])
        );
    }
    agents[1].restart();
    while given_up(1) {
        drop(client.start_flow("checkout", FlowParams::new()).await);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let address = format!("agent=\"{}\"", agents[1].address());
    let line = ["INFO", &address, "away=", "it is asked again"];
    assert_eq!(lines.with(&line).len(), 1);
}

#[tokio::test]
async fn flows_without_a_decision_are_logged_in_at_most_one_line_a_minute() {
    let (lines, _guard) = LogLines::collect(Level::INFO);
    let agent = FakeAgent::start();
    agent.on_check(|request| match request.control_point.as_str() {
        "checkout" => Reply::Status(Status::invalid_argument("no such label")),
        _ => Reply::Now(answer::limited(request)),
    });
    let client = builder(&[&agent]).build().expect("a client");
    for _ in 0..50 {
        start_unreachable(&client, FlowParams::new()).await;
        let other = client.start_flow("other", FlowParams::new()).await;
        assert_eq!(other.decision(), FlowDecision::Accepted);
    }
    let address = format!("agent=\"{}\"", agent.address());
    let line = [
        "WARN",
        &address,
        "no such label",
        "flows=1",
        "ran without limits",
    ];
    assert_eq!(lines.with(&line).len(), 1);
    assert_eq!(
        lines.with(&["WARN"]).len(),
        1,
        "{:?}",
        lines.with(&["WARN"])
    );
}
