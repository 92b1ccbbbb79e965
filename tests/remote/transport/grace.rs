//! The client sends its budget and waits a grace longer for the answer.

use std::time::Duration;

use tokio::time::Instant;
use tower_aperture::pb::check::CheckResponse;
use tower_aperture::pb::check::check_response::DecisionType;
use tower_aperture::{FlowDecision, FlowError, FlowErrorKind, FlowParams};

use super::peer::SlowPeer;
use super::{LONG, builder};
use crate::support::agent::{FakeAgent, Gate, Reply, answer};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn response(decision: DecisionType) -> CheckResponse {
    CheckResponse {
        decision_type: decision as i32,
        ..CheckResponse::default()
    }
}

#[tokio::test]
async fn an_answer_after_the_budget_and_within_the_grace_decides() {
    let mut peer = SlowPeer::start().await;
    let client = builder([peer.address()]).check_grace(LONG).build();
    let client = client.expect("a client");
    for budget in [Duration::from_nanos(1), ms(1), ms(30), ms(200)] {
        for (decision, expected) in [
            (DecisionType::Accepted, FlowDecision::Accepted),
            (DecisionType::Rejected, FlowDecision::Rejected),
        ] {
            // The first flow connects, so that connecting takes no time from the next budget.
            let first = client.start_flow("checkout", FlowParams::new());
            let (first, ()) = tokio::join!(first, async {
                peer.next().await.answer(&response(DecisionType::Accepted));
            });
            assert_eq!(first.decision(), FlowDecision::Accepted);
            let params = FlowParams::new().check_timeout(budget);
            let flow = client.start_flow("checkout", params);
            let (flow, ()) = tokio::join!(flow, async {
                let held = peer.next().await;
                assert!(held.timeout.is_some(), "the client sends the budget");
                tokio::time::sleep(budget + ms(10)).await;
                held.answer(&response(decision));
            });
            assert_eq!(flow.decision(), expected, "{budget:?}: {:?}", flow.error());
        }
    }
    let stats = client.stats();
    assert_eq!((stats.unreachable, stats.late, stats.rejected), (0, 0, 4));
}

#[tokio::test]
async fn a_check_waits_for_its_budget_and_grace_and_then_counts_as_late() {
    let mut peer = SlowPeer::start().await;
    for (budget, grace) in [(30, 40), (200, 300), (50, 0), (1, 60_000)] {
        let (budget, grace) = (ms(budget), ms(grace));
        let client = builder([peer.address()]).check_grace(grace).build();
        let client = client.expect("a client");
        let first = client.start_flow("checkout", FlowParams::new());
        let (first, ()) = tokio::join!(first, async {
            peer.next().await.answer(&response(DecisionType::Accepted));
        });
        assert!(first.should_run());
        tokio::time::pause();
        let begun = Instant::now();
        let params = FlowParams::new().check_timeout(budget);
        let flow = client.start_flow("checkout", params).await;
        let waited = begun.elapsed();
        tokio::time::resume();
        let held = peer.next().await;
        let error = flow.error().expect("no answer");
        assert!(error.is_timeout() && error.is_late(), "{error}");
        let bound = budget + grace;
        assert!(waited >= bound && waited < bound + ms(510), "{waited:?}");
        assert_eq!((client.stats().timeouts, client.stats().late), (1, 1));
        held.answer(&response(DecisionType::Rejected)); // An answer that is too late has no effect.
    }
}

#[tokio::test]
async fn timeouts_of_checks_that_were_never_sent_are_not_late() {
    // This listener accepts connections in its backlog and never sends a byte.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let silent = silent.expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let client = builder([address]).build().expect("a client");
    for budget in [Duration::from_nanos(1), ms(20)] {
        let params = FlowParams::new().check_timeout(budget);
        let flow = client.start_flow("checkout", params).await;
        let error = flow.error().expect("no connection");
        assert!(error.is_timeout() && !error.is_late(), "{error}");
    }
    assert_eq!((client.stats().timeouts, client.stats().late), (2, 0));
}

// The runtime has one thread, so a stall of the test is a stall of the client.
#[tokio::test]
async fn an_answer_that_arrived_while_the_process_stalled_decides() {
    let agent = FakeAgent::start();
    let (budget, grace) = (ms(1500), ms(100));
    let client = builder([agent.address()]).check_timeout(budget);
    let client = client.check_grace(grace).build().expect("a client");
    assert!(client.wait_ready(LONG).await);
    for stall in [grace, ms(1000)] {
        let gate = Gate::new();
        let opened = gate.clone();
        agent.on_check(move |request| {
            let rejected = answer::rejected(request, Default::default());
            Reply::When(opened.clone(), rejected)
        });
        let checks_after = agent.checks().len() + 1;
        let flow = tokio::spawn({
            let client = client.clone();
            async move { client.start_flow("checkout", FlowParams::new()).await }
        });
        agent
            .until("the check reaches the agent", |agent| {
                agent.checks().len() == checks_after
            })
            .await;
        gate.open();
        std::thread::sleep(budget + stall);
        let flow = flow.await.expect("no panic");
        let decision = flow.decision();
        assert_eq!(
            decision,
            FlowDecision::Rejected,
            "{stall:?}: {:?}",
            flow.error()
        );
    }
}

#[tokio::test]
async fn a_check_on_a_channel_from_the_caller_gets_no_grace() {
    let mut peer = SlowPeer::start().await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", peer.address()));
    let client = tower_aperture::ApertureClient::builder()
        .channel(endpoint.expect("an address").connect_lazy())
        .check_timeout(ms(50))
        .check_grace(LONG)
        .build()
        .expect("a client");
    let begun = Instant::now();
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    assert!(
        begun.elapsed() < LONG / 2,
        "the channel ends the call at its timeout"
    );
    let error = flow.error().expect("no answer");
    assert_eq!(error.kind(), FlowErrorKind::Timeout, "{error}");
    drop(peer.next().await);
}

#[tokio::test]
async fn statuses_that_end_a_check_at_its_deadline_are_late() {
    let agent = FakeAgent::start();
    let client = builder([agent.address()]).breaker(0, LONG).build();
    let client = client.expect("a client");
    for (status, late) in [
        (tonic::Status::deadline_exceeded("queued"), true),
        (tonic::Status::cancelled("deadline"), true),
        (tonic::Status::unavailable("shutting down"), false),
        (tonic::Status::internal("broken"), false),
    ] {
        agent.on_check({
            let status = status.clone();
            move |_| Reply::Status(status.clone())
        });
        let flow = client.start_flow("checkout", FlowParams::new()).await;
        assert_eq!(flow.error().map(FlowError::is_late), Some(late), "{status}");
    }
    assert_eq!(client.stats().late, 2);
}
