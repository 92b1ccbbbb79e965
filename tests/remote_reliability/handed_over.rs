//! Checks whose callers left: the client waits for the answer a little longer and returns a grant
//! that arrives.

use std::time::Duration;

use tower_aperture::{ApertureClient, FlowDecision, FlowErrorKind, FlowParams};

use super::support::agent::{FakeAgent, Gate, Reply, answer};
use super::{LONG, accepted, builder};

/// Starts flows that all time out after `budget` and the client's grace.
async fn time_out(client: &ApertureClient, flows: usize, budget: Duration) {
    let flow = || client.start_flow("checkout", FlowParams::new().check_timeout(budget));
    let flows = futures_util::future::join_all((0..flows).map(|_| flow())).await;
    for flow in flows {
        let error = flow.error().expect("unreachable");
        assert_eq!(error.kind(), FlowErrorKind::Timeout);
        assert!(flow.should_run());
    }
}

#[tokio::test]
async fn the_client_returns_a_grant_that_arrives_after_the_check_timed_out() {
    for (flows, budget) in [(1, 1), (3, 20), (40, 200)] {
        let agent = FakeAgent::start();
        let gate = Gate::new();
        let closed = gate.clone();
        agent.on_check(move |request| Reply::When(closed.clone(), answer::granted(request)));
        let client = builder(&[&agent])
            .check_grace(Duration::from_secs(2))
            .build()
            .expect("a client");
        assert!(client.wait_ready(LONG).await);
        time_out(&client, flows, Duration::from_millis(budget)).await;
        let granted = agent.tokens_in_flight();
        gate.open();
        agent
            .until("all slots are returned", |agent| {
                agent.tokens_in_flight() == 0
            })
            .await;
        assert!(client.shutdown(LONG).await);
        let stats = client.stats();
        assert_eq!(stats.checks_handed_over, granted as u64);
        assert_eq!(stats.ends_delivered, granted as u64);
        assert_eq!((stats.checks_cancelled, stats.checks_unsettled), (0, 0));
    }
}

#[tokio::test]
async fn a_check_that_waits_in_a_queue_is_cancelled_after_its_caller_leaves() {
    let agent = FakeAgent::start();
    let gate = Gate::new();
    let closed = gate.clone();
    agent.on_check(move |request| match request.control_point.as_str() {
        "queued" => Reply::When(closed.clone(), answer::accepted(request)),
        _ => Reply::Now(answer::accepted(request)),
    });
    let client = builder(&[&agent])
        .check_grace(Duration::from_millis(50))
        .build()
        .expect("a client");
    // The first caller leaves at the timeout of its check, the second drops its flow.
    let params = FlowParams::new().check_timeout(Duration::from_millis(50));
    let timed_out = client.start_flow("queued", params).await;
    assert_eq!(timed_out.decision(), FlowDecision::Unreachable);
    let dropped = client.start_flow("queued", FlowParams::new());
    let dropped = tokio::time::timeout(Duration::from_millis(300), dropped).await;
    assert!(dropped.is_err());
    agent
        .until("the queue is empty", |_| gate.waiting() == 0)
        .await;
    drop(accepted(&client).await);
    assert!(
        client.shutdown(LONG).await,
        "the cancelled checks do not keep shutdown waiting"
    );
    let stats = client.stats();
    assert_eq!(stats.checks_handed_over, 2);
    assert_eq!((stats.checks_cancelled, stats.checks_unsettled), (2, 0));
}

#[tokio::test]
async fn the_client_returns_grants_of_an_agent_that_was_frozen_and_resumes() {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    let client = builder(&[&agent])
        .breaker(0, LONG)
        .build()
        .expect("a client");
    assert!(client.wait_ready(LONG).await);
    agent.freeze();
    time_out(&client, 3, Duration::from_millis(20)).await;
    // Longer than a grace. The checks wait unread in the Agent's socket.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        client.stats().checks_cancelled,
        0,
        "checks that a frozen agent has not read are kept"
    );
    agent.thaw();
    agent
        .until("the ends of all grants are delivered", |_| {
            client.stats().ends_delivered == 3
        })
        .await;
    assert_eq!(agent.tokens_in_flight(), 0);
    assert_eq!(client.stats().checks_unsettled, 0);
}

#[tokio::test]
async fn a_grant_that_cannot_be_returned_is_counted() {
    // The connection breaks before the answer.
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::When(Gate::new(), answer::granted(request)));
    let client = builder(&[&agent]).build().expect("a client");
    let waiting = (0..4).map(|_| client.start_flow("checkout", FlowParams::new()));
    let killed = async {
        agent
            .until("the checks reach the agent", |agent| {
                agent.checks().len() == 4
            })
            .await;
        agent.kill();
    };
    let (flows, ()) = tokio::join!(futures_util::future::join_all(waiting), killed);
    for flow in flows {
        assert_eq!(flow.decision(), FlowDecision::Unreachable);
    }
    let stats = client.stats();
    assert_eq!((stats.unreachable, stats.checks_unsettled), (4, 4));

    // The Agent stays silent until the client has shut down.
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    let client = builder(&[&agent])
        .breaker(0, LONG)
        .check_grace(Duration::from_millis(10))
        .build()
        .expect("a client");
    assert!(client.wait_ready(LONG).await);
    agent.freeze();
    time_out(&client, 2, Duration::from_millis(10)).await;
    assert!(
        !client.shutdown(LONG).await,
        "shutdown reports that two slots may stay taken"
    );
    let stats = client.stats();
    assert_eq!((stats.checks_cancelled, stats.checks_unsettled), (2, 2));
    agent.thaw();
}

#[tokio::test]
async fn a_check_whose_caller_left_is_not_sent_to_another_agent() {
    let agents = [FakeAgent::start(), FakeAgent::start()];
    let gate = Gate::new();
    for agent in &agents {
        let closed = gate.clone();
        agent.on_check(move |request| Reply::When(closed.clone(), answer::granted(request)));
    }
    let client = builder(&[&agents[0], &agents[1]])
        .build()
        .expect("a client");
    assert!(client.wait_ready(LONG).await);
    let checks_sent = || {
        agents
            .iter()
            .map(|agent| agent.checks().len())
            .sum::<usize>()
    };
    let flow = client.start_flow("checkout", FlowParams::new());
    tokio::select! {
        _ = flow => panic!("no agent decides"),
        () = agents[0].until("the check reaches an agent", |_| checks_sent() == 1) => {}
    }
    let first = agents.iter().find(|agent| !agent.checks().is_empty());
    first.expect("one agent has the check").kill();
    agents[0]
        .until("the check is counted as unsettled", |_| {
            client.stats().checks_unsettled == 1
        })
        .await;
    // The other Agent would answer at once.
    gate.open();
    assert!(
        client.shutdown(LONG).await,
        "the check was given up before the shutdown"
    );
    assert_eq!(checks_sent(), 1);
    assert!(agents.iter().all(|agent| agent.flow_ends().is_empty()));
    let stats = client.stats();
    assert_eq!(
        (
            stats.checks_handed_over,
            stats.checks_unsettled,
            stats.checks_cancelled
        ),
        (1, 1, 0)
    );
    assert_eq!((stats.accepted, stats.ends_delivered), (0, 0));
}
