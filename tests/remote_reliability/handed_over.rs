//! A check whose caller is gone is waited for a little longer: a grant that arrives is given back.

use std::time::Duration;

use tower_aperture::{ApertureClient, FlowDecision, FlowErrorKind, FlowParams};

use super::support::agent::{FakeAgent, Gate, Reply, answer};
use super::{LONG, accepted, builder};

/// Starts flows that all give up waiting after `budget` and the client's grace.
async fn give_up(client: &ApertureClient, flows: usize, budget: Duration) {
    let flow = || client.start_flow("checkout", FlowParams::new().check_timeout(budget));
    let flows = futures_util::future::join_all((0..flows).map(|_| flow())).await;
    for flow in flows {
        let error = flow.error().expect("unreachable");
        assert_eq!(error.kind(), FlowErrorKind::Timeout);
        assert!(flow.should_run());
    }
}

#[tokio::test]
async fn a_grant_that_comes_after_the_checks_own_timeout_is_given_back() {
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
        give_up(&client, flows, Duration::from_millis(budget)).await;
        let granted = agent.tokens_in_flight();
        gate.open();
        agent
            .until("the slots back", |agent| agent.tokens_in_flight() == 0)
            .await;
        assert!(client.shutdown(LONG).await);
        let stats = client.stats();
        assert_eq!(stats.checks_handed_over, granted as u64);
        assert_eq!(stats.ends_delivered, granted as u64);
        assert_eq!((stats.checks_cancelled, stats.checks_unsettled), (0, 0));
    }
}

#[tokio::test]
async fn a_check_that_waits_in_a_queue_is_cancelled_once_its_caller_is_gone() {
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
    // One by its own timeout, one whose caller leaves, one whose client does not listen long.
    let own = FlowParams::new().check_timeout(Duration::from_millis(50));
    let own = client.start_flow("queued", own).await;
    assert_eq!(own.decision(), FlowDecision::Unreachable);
    let left = client.start_flow("queued", FlowParams::new());
    let left = tokio::time::timeout(Duration::from_millis(300), left).await;
    assert!(left.is_err());
    agent
        .until("no check in the queue", |_| gate.waiting() == 0)
        .await;
    drop(accepted(&client).await);
    assert!(client.shutdown(LONG).await, "nothing is left to wait for");
    let stats = client.stats();
    assert_eq!(stats.checks_handed_over, 2);
    assert_eq!((stats.checks_cancelled, stats.checks_unsettled), (2, 0));
}

#[tokio::test]
async fn an_agent_that_was_stopped_and_goes_on_keeps_no_slot() {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    let client = builder(&[&agent])
        .breaker(0, LONG)
        .build()
        .expect("a client");
    assert!(client.wait_ready(LONG).await);
    agent.freeze();
    give_up(&client, 3, Duration::from_millis(20)).await;
    // Longer than a grace: the checks lie unread in the Agent's socket.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.stats().checks_cancelled, 0, "they are still there");
    agent.thaw();
    agent
        .until("the ends", |_| client.stats().ends_delivered == 3)
        .await;
    assert_eq!(agent.tokens_in_flight(), 0);
    assert_eq!(client.stats().checks_unsettled, 0);
}

#[tokio::test]
async fn a_grant_that_nothing_can_give_back_is_counted() {
    // The connection breaks before the answer.
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::When(Gate::new(), answer::granted(request)));
    let client = builder(&[&agent]).build().expect("a client");
    let waiting = (0..4).map(|_| client.start_flow("checkout", FlowParams::new()));
    let killed = async {
        agent
            .until("the checks", |agent| agent.checks().len() == 4)
            .await;
        agent.kill();
    };
    let (flows, ()) = tokio::join!(futures_util::future::join_all(waiting), killed);
    for flow in flows {
        assert_eq!(flow.decision(), FlowDecision::Unreachable);
    }
    let stats = client.stats();
    assert_eq!((stats.unreachable, stats.checks_unsettled), (4, 4));

    // The Agent stays silent until the client is gone.
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    let client = builder(&[&agent])
        .breaker(0, LONG)
        .check_grace(Duration::from_millis(10))
        .build()
        .expect("a client");
    assert!(client.wait_ready(LONG).await);
    agent.freeze();
    give_up(&client, 2, Duration::from_millis(10)).await;
    assert!(!client.shutdown(LONG).await, "two slots may stay taken");
    let stats = client.stats();
    assert_eq!((stats.checks_cancelled, stats.checks_unsettled), (2, 2));
    agent.thaw();
}

#[tokio::test]
async fn a_check_without_its_caller_asks_no_other_agent() {
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
    let asked = || {
        agents
            .iter()
            .map(|agent| agent.checks().len())
            .sum::<usize>()
    };
    let flow = client.start_flow("checkout", FlowParams::new());
    tokio::select! {
        _ = flow => panic!("nothing decides"),
        () = agents[0].until("the check", |_| asked() == 1) => {}
    }
    let first = agents.iter().find(|agent| !agent.checks().is_empty());
    first.expect("one was asked").kill();
    agents[0]
        .until("the end of the check", |_| {
            client.stats().checks_unsettled == 1
        })
        .await;
    assert!(!client.shutdown(Duration::ZERO).await || asked() == 1);
    assert_eq!(asked(), 1);
}
