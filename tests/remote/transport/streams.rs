//! Waiting checks leave streams free for ends, and an end uses the connection of its check.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use tower_aperture::{ApertureClient, FlowParams};

use super::{LONG, builder};
use crate::support::agent::{FakeAgent, Gate, Reply, answer};

const CHECK: &str = "/aperture.flowcontrol.check.v1.FlowControlService/Check";
const FLOW_END: &str = "/aperture.flowcontrol.check.v1.FlowControlService/FlowEnd";

/// Starts an Agent that grants every flow, and flows at `queue` only once the gate opens.
fn start_agent(streams: u32) -> (FakeAgent, Gate) {
    let agent = FakeAgent::start_with_streams(streams);
    let gate = Gate::new();
    let closed = gate.clone();
    agent.on_check(move |request| match request.control_point.as_str() {
        "queue" => Reply::When(closed.clone(), answer::granted(request)),
        _ => Reply::Now(answer::granted(request)),
    });
    (agent, gate)
}

/// Returns the client's address of each call to `path`.
fn peers(agent: &FakeAgent, path: &str) -> Vec<SocketAddr> {
    let calls = agent.calls().into_iter().filter(|call| call.path == path);
    calls.map(|call| call.peer.expect("TCP")).collect()
}

/// Starts flows at `queue` in tasks.
fn start_queued(
    client: &ApertureClient,
    flows: usize,
) -> tokio::task::JoinSet<tower_aperture::FlowDecision> {
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..flows {
        let client = client.clone();
        waiting.spawn(async move {
            let flow = client.start_flow("queue", FlowParams::new()).await;
            flow.decision()
        });
    }
    waiting
}

#[tokio::test]
async fn ends_are_not_delayed_by_waiting_checks_and_use_the_connection_of_their_check() {
    for (streams, max_checks) in [(2, 1), (3, 2), (8, 6), (100, 88), (300, 284)] {
        let (agent, gate) = start_agent(streams);
        let client = builder([agent.address()]).build().expect("a client");
        let mut running = Vec::new();
        for _ in 0..3 {
            running.push(client.start_flow("work", FlowParams::new()).await);
        }
        let first = peers(&agent, CHECK)[0];
        let waiting = 2 * max_checks + 1;
        let mut queued = start_queued(&client, waiting);
        agent
            .until("all checks wait at the agent", |agent| {
                agent.checks().len() == 3 + waiting
            })
            .await;
        let mut checks: HashMap<_, usize> = HashMap::new();
        for peer in peers(&agent, CHECK).split_off(3) {
            *checks.entry(peer).or_default() += 1;
        }
        assert_eq!(checks.len(), 3, "{streams} streams: {checks:?}");
        assert!(
            checks.values().all(|checks| *checks <= max_checks),
            "{checks:?}"
        );
        for flow in running {
            let end = tokio::time::timeout(LONG, flow.end()).await;
            let end = end.expect("an end does not wait behind checks");
            assert!(
                end.error().is_none(),
                "{streams} streams: {:?}",
                end.error()
            );
        }
        let ends: HashSet<_> = peers(&agent, FLOW_END).into_iter().collect();
        assert_eq!(ends, HashSet::from([first]), "{streams} streams");
        gate.open();
        while let Some(decision) = queued.join_next().await {
            assert_eq!(
                decision.expect("no panic"),
                tower_aperture::FlowDecision::Accepted
            );
        }
    }
}

#[tokio::test]
async fn a_client_opens_at_most_64_connections_and_further_checks_wait_within_their_budget() {
    let (agent, gate) = start_agent(2);
    let client = builder([agent.address()]).build().expect("a client");
    let running = client.start_flow("work", FlowParams::new()).await;
    let mut queued = start_queued(&client, 100);
    agent
        .until("64 connections", |agent| agent.checks().len() >= 65)
        .await;
    let params = || FlowParams::new().check_timeout(Duration::from_millis(50));
    let flow = client.start_flow("work", params()).await;
    let error = flow.error().expect("no stream is free");
    assert!(error.is_timeout() && !error.is_late(), "{error}");
    assert!(error.to_string().contains("no free stream"), "{error}");
    assert!(!client.agents()[0].given_up);
    assert_eq!(
        agent.checks().len(),
        65,
        "one check waits on each of the 64 connections"
    );
    let distinct: HashSet<_> = peers(&agent, CHECK).into_iter().collect();
    assert_eq!(distinct.len(), 64);
    assert!(
        running.end().await.error().is_none(),
        "the end still finds a stream"
    );
    gate.open();
    while let Some(decision) = queued.join_next().await {
        assert_eq!(
            decision.expect("no panic"),
            tower_aperture::FlowDecision::Accepted
        );
    }
    assert_eq!(client.stats().unreachable, 1);
}

#[tokio::test]
async fn no_stream_is_lost_when_callers_leave_while_they_wait_for_one() {
    let (agent, gate) = start_agent(2);
    let client = builder([agent.address()]).build().expect("a client");
    let mut queued = start_queued(&client, 64);
    agent
        .until("64 connections", |agent| agent.checks().len() == 64)
        .await;
    let mut leaving = start_queued(&client, 200);
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    leaving.abort_all();
    while leaving.join_next().await.is_some() {}
    gate.open();
    while let Some(decision) = queued.join_next().await {
        assert_eq!(
            decision.expect("no panic"),
            tower_aperture::FlowDecision::Accepted
        );
    }
    // As many flows at once as the streams allow.
    let decisions = start_queued(&client, 64).join_all().await;
    assert_eq!(decisions.len(), 64);
    assert_eq!(client.stats().unreachable, 0);
}
