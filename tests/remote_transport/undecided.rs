//! Another Agent is asked only where the first has decided nothing.

use tonic::Status;
use tower_aperture::{ApertureClient, Flow, FlowDecision, FlowParams};

use super::builder;
use super::peer::{Fault, RawPeer};
use super::support::agent::{FakeAgent, Reply, answer};

const CANCEL: u8 = 8;
const INTERNAL_ERROR: u8 = 2;
const NO_ERROR: u8 = 0;
const REFUSED_STREAM: u8 = 7;

async fn start(client: &ApertureClient) -> Flow {
    client.start_flow("checkout", FlowParams::new()).await
}

/// Starts flows until the first Agent has got a check; returns the flow of that check.
async fn first_asked(client: &ApertureClient, asked: impl Fn() -> bool) -> Flow {
    for _ in 0..10_000 {
        let flow = start(client).await;
        if asked() {
            return flow;
        }
    }
    panic!("the first agent is never asked");
}

#[tokio::test]
async fn streams_that_were_not_processed_are_asked_of_another_agent() {
    for (fault, asks_again) in [
        (Fault::Reset(REFUSED_STREAM), true),
        (Fault::GoAway(0, NO_ERROR), true),
        (Fault::GoAway(0, INTERNAL_ERROR), true),
        (Fault::Reset(INTERNAL_ERROR), false),
        (Fault::Reset(CANCEL), false),
        (Fault::GoAway(1, NO_ERROR), false),
        (Fault::GoAway(1, INTERNAL_ERROR), false),
        (Fault::Close, false),
    ] {
        let (own, other) = (FakeAgent::start(), FakeAgent::start());
        let mut peer = RawPeer::start(fault, own.address()).await;
        let client = builder([peer.address(), other.address()]).build();
        let client = client.expect("a client");
        let mut flows = 0;
        let flow = loop {
            let flow = start(&client).await;
            flows += 1;
            if peer.requests.try_recv().is_ok() {
                break flow;
            }
            assert!(flows < 10_000, "the first agent is never asked");
        };
        let decided = flow.decision() == FlowDecision::Accepted;
        assert_eq!(decided, asks_again, "{fault:?}: {:?}", flow.error());
        assert_eq!(own.checks().len(), 0, "{fault:?}");
        let others = flows - usize::from(!asks_again);
        assert_eq!(other.checks().len(), others, "{fault:?}");
        assert_eq!(client.stats().checks_moved, u64::from(asks_again));
    }
}

/// Behind a virtual address, an Agent that shuts down gracefully makes way for another one.
#[tokio::test]
async fn a_stream_that_was_not_processed_is_asked_again_over_another_connection() {
    for code in [NO_ERROR, INTERNAL_ERROR] {
        let agent = FakeAgent::start();
        let peer = RawPeer::start(Fault::GoAway(0, code), agent.address()).await;
        let builder = builder([peer.address()]).connections(2);
        let client = builder.build().expect("a client");
        let mut flows = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let client = client.clone();
            flows.spawn(async move { start(&client).await.decision() });
        }
        for decision in flows.join_all().await {
            assert_eq!(decision, FlowDecision::Accepted, "{code}");
        }
        assert!(!client.agents()[0].given_up);
        assert_eq!(agent.checks().len(), 10, "{code}");
    }
}

#[tokio::test]
async fn an_agent_that_refuses_the_client_costs_no_flow_while_another_decides() {
    for status in [
        Status::unauthenticated("no"),
        Status::permission_denied("no"),
        Status::unimplemented("no"),
    ] {
        let (refusing, deciding) = (FakeAgent::start(), FakeAgent::start());
        let code = status.code();
        refusing.on_check(move |_| Reply::Status(status.clone()));
        let client = builder([refusing.address(), deciding.address()]).build();
        let client = client.expect("a client");
        drop(first_asked(&client, || !refusing.checks().is_empty()).await);
        for _ in 0..100 {
            assert_eq!(
                start(&client).await.decision(),
                FlowDecision::Accepted,
                "{code:?}"
            );
        }
        assert_eq!(client.stats().unreachable, 0, "{code:?}");
        assert!(client.stats().checks_moved >= 1);
        assert!(client.agents().iter().all(|agent| !agent.given_up));
        // Once an interval, which grows to a second.
        assert!(refusing.checks().len() < 50, "{}", refusing.checks().len());
    }
}

#[tokio::test]
async fn errors_that_may_follow_a_decision_are_not_asked_again_and_repel_flows() {
    for status in [
        Status::internal("broken"),
        Status::resource_exhausted("full"),
        Status::unknown("no idea"),
        Status::aborted("no"),
        Status::data_loss("no"),
    ] {
        let (failing, deciding) = (FakeAgent::start(), FakeAgent::start());
        let code = status.code();
        failing.on_check(move |_| Reply::Status(status.clone()));
        let client = builder([failing.address(), deciding.address()]);
        let client = client.breaker(1, super::LONG).build().expect("a client");
        let flow = first_asked(&client, || !failing.checks().is_empty()).await;
        assert_eq!(flow.decision(), FlowDecision::Unreachable, "{code:?}");
        for _ in 0..200 {
            drop(start(&client).await);
        }
        let asked = failing.checks().len();
        let stats = client.stats();
        assert_eq!(
            stats.unreachable, asked as u64,
            "each is one flow: {code:?}"
        );
        assert_eq!(stats.checks_moved, 0, "{code:?}");
        assert!(asked < 100, "{code:?}: {asked} of 200");
        assert!(!client.agents()[0].given_up, "{code:?}: it answers");
    }
}

#[tokio::test]
async fn an_agent_that_failed_gets_its_share_again_once_it_decides() {
    let (first, second) = (FakeAgent::start(), FakeAgent::start());
    first.on_check(|_| Reply::Status(Status::internal("starting")));
    let client = builder([first.address(), second.address()]).build();
    let client = client.expect("a client");
    drop(first_asked(&client, || !first.checks().is_empty()).await);
    first.on_check(|request| Reply::Now(answer::accepted(request)));
    let asked = first.checks().len();
    // One check tries it, and then it is chosen like the other.
    for _ in 0..1_000_000 {
        drop(start(&client).await);
        if first.checks().len() > asked {
            break;
        }
    }
    let (asked, others) = (first.checks().len(), second.checks().len());
    for _ in 0..100 {
        assert_eq!(start(&client).await.decision(), FlowDecision::Accepted);
    }
    assert!(first.checks().len() - asked > 10, "of 100");
    assert!(second.checks().len() - others > 10, "of 100");
}

#[tokio::test]
async fn where_all_agents_refuse_the_client_each_is_asked_once_a_flow() {
    let agents = [(); 3].map(|()| FakeAgent::start());
    for agent in &agents {
        agent.on_check(|_| Reply::Status(Status::unauthenticated("no")));
    }
    let client = builder(agents.iter().map(FakeAgent::address)).build();
    let client = client.expect("a client");
    for flows in 1..=5 {
        let flow = start(&client).await;
        assert!(flow.error().expect("nobody decides").is_unauthenticated());
        for agent in &agents {
            assert_eq!(agent.checks().len(), flows);
        }
    }
}
