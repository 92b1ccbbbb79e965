//! The client sends a check to another Agent only if the first Agent cannot have decided it.

use tonic::Status;
use tower_aperture::{ApertureClient, Flow, FlowDecision, FlowParams};

use super::builder;
use super::peer::{Fault, RawPeer};
use crate::support::agent::{FakeAgent, Reply, answer};

const CANCEL: u8 = 8;
const INTERNAL_ERROR: u8 = 2;
const NO_ERROR: u8 = 0;
const REFUSED_STREAM: u8 = 7;

async fn start(client: &ApertureClient) -> Flow {
    client.start_flow("checkout", FlowParams::new()).await
}

/// Starts flows until `got_check` returns true. Returns the last flow, whose check went to the Agent
/// that `got_check` observes.
async fn first_flow_checked_by(client: &ApertureClient, got_check: impl Fn() -> bool) -> Flow {
    for _ in 0..10_000 {
        let flow = start(client).await;
        if got_check() {
            return flow;
        }
    }
    panic!("the first agent gets no check");
}

#[tokio::test]
async fn checks_on_streams_that_were_not_processed_go_to_another_agent() {
    for (fault, sent_again) in [
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
            assert!(flows < 10_000, "the first agent gets no check");
        };
        let decided = flow.decision() == FlowDecision::Accepted;
        assert_eq!(decided, sent_again, "{fault:?}: {:?}", flow.error());
        assert_eq!(own.checks().len(), 0, "{fault:?}");
        let others = flows - usize::from(!sent_again);
        assert_eq!(other.checks().len(), others, "{fault:?}");
        assert_eq!(client.stats().checks_moved, u64::from(sent_again));
    }
}

/// Behind a virtual address, another Agent takes over from one that shuts down gracefully.
#[tokio::test]
async fn checks_on_streams_that_were_not_processed_are_sent_again_over_another_connection() {
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
async fn no_flow_fails_at_an_agent_that_refuses_the_client_while_another_decides() {
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
        drop(first_flow_checked_by(&client, || !refusing.checks().is_empty()).await);
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
        // The refusing Agent gets one check per interval, which grows to a second.
        assert!(refusing.checks().len() < 50, "{}", refusing.checks().len());
    }
}

#[tokio::test]
async fn errors_that_may_follow_a_decision_cause_no_second_check_and_fewer_flows() {
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
        let flow = first_flow_checked_by(&client, || !failing.checks().is_empty()).await;
        assert_eq!(flow.decision(), FlowDecision::Unreachable, "{code:?}");
        for _ in 0..200 {
            drop(start(&client).await);
        }
        let failed = failing.checks().len();
        let stats = client.stats();
        assert_eq!(
            stats.unreachable, failed as u64,
            "each check at the failing agent is one unreachable flow: {code:?}"
        );
        assert_eq!(stats.checks_moved, 0, "{code:?}");
        assert!(failed < 100, "{code:?}: {failed} of 200");
        assert!(
            !client.agents()[0].given_up,
            "{code:?}: an agent that answers is not given up"
        );
    }
}

#[tokio::test]
async fn an_agent_that_failed_gets_its_share_of_checks_again_once_it_decides() {
    let (first_agent, second_agent) = (FakeAgent::start(), FakeAgent::start());
    first_agent.on_check(|_| Reply::Status(Status::internal("starting")));
    let client = builder([first_agent.address(), second_agent.address()]).build();
    let client = client.expect("a client");
    drop(first_flow_checked_by(&client, || !first_agent.checks().is_empty()).await);
    first_agent.on_check(|request| Reply::Now(answer::accepted(request)));
    let checks_before = first_agent.checks().len();
    // Once one check has succeeded there, both Agents are chosen alike.
    for _ in 0..1_000_000 {
        drop(start(&client).await);
        if first_agent.checks().len() > checks_before {
            break;
        }
    }
    let (firsts, seconds) = (first_agent.checks().len(), second_agent.checks().len());
    for _ in 0..100 {
        assert_eq!(start(&client).await.decision(), FlowDecision::Accepted);
    }
    assert!(
        first_agent.checks().len() - firsts > 10,
        "its share of 100 checks"
    );
    assert!(
        second_agent.checks().len() - seconds > 10,
        "its share of 100 checks"
    );
}

#[tokio::test]
async fn if_all_agents_refuse_the_client_each_gets_one_check_for_each_flow() {
    let agents = [(); 3].map(|()| FakeAgent::start());
    for agent in &agents {
        agent.on_check(|_| Reply::Status(Status::unauthenticated("no")));
    }
    let client = builder(agents.iter().map(FakeAgent::address)).build();
    let client = client.expect("a client");
    for flows in 1..=5 {
        let flow = start(&client).await;
        assert!(flow.error().expect("no agent decides").is_unauthenticated());
        for agent in &agents {
            assert_eq!(agent.checks().len(), flows);
        }
    }
}
