//! Several Agents that share their limits: how the client spreads checks over them, and how flows,
//! ends and spans fare when one of them fails.
#![cfg(feature = "remote")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::support::agent::{FakeAgent, Reply, answer};
use tower_aperture::{
    ApertureClient, ApertureClientBuilder, ConnectionState, FlowDecision, FlowParams, FlowStatus,
};

/// A timeout that only a call that hangs reaches, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// The probe interval of tests that wait for a probe.
const SOON: Duration = Duration::from_millis(20);

fn agents<const N: usize>() -> [FakeAgent; N] {
    std::array::from_fn(|_| {
        let agent = FakeAgent::start();
        agent.on_check(|request| Reply::Now(answer::granted(request)));
        agent
    })
}

fn builder(agents: &[FakeAgent]) -> ApertureClientBuilder {
    ApertureClient::builder()
        .addresses(agents.iter().map(FakeAgent::address))
        .insecure(true)
        .connect_timeout(LONG)
        .check_timeout(LONG)
        .end_timeout(LONG)
        .breaker(5, SOON)
}

async fn decision(client: &ApertureClient) -> FlowDecision {
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    flow.decision()
}

/// Starts flows until one is accepted.
async fn start_until_accepted(client: &ApertureClient) {
    let checking = async {
        while decision(client).await != FlowDecision::Accepted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let finished = tokio::time::timeout(LONG, checking).await;
    finished.expect("a returned agent gets checks");
}

/// Starts flows until the wanted Agent of the two gets a check. Returns the flow of that check.
async fn flow_checked_by(
    client: &ApertureClient,
    agents: &[FakeAgent; 2],
    wanted: usize,
) -> tower_aperture::Flow {
    for _ in 0..1000 {
        let before = agents[wanted].checks().len();
        let flow = client.start_flow("checkout", FlowParams::new()).await;
        assert_eq!(flow.error(), None);
        if agents[wanted].checks().len() > before {
            return flow;
        }
    }
    panic!("agent {wanted} gets no check");
}

#[tokio::test]
async fn flows_are_spread_over_all_agents() {
    let agents = agents::<3>();
    let client = builder(&agents).connections(2).build().expect("a client");
    for _ in 0..60 {
        assert_eq!(decision(&client).await, FlowDecision::Accepted);
    }
    for agent in &agents {
        assert!(agent.checks().len() > 5, "{}", agent.checks().len());
        let peers = agent.calls().into_iter().map(|call| call.peer);
        let peers: std::collections::HashSet<_> = peers.collect();
        assert_eq!(
            peers.len(),
            2,
            "the number of connections applies to each agent"
        );
    }
    assert_eq!(client.agents().len(), 3);
    assert_eq!(client.state(), ConnectionState::Ready);
}

#[tokio::test]
async fn a_slow_agent_gets_few_checks() {
    let agents = agents::<2>();
    agents[0].on_check(|_| Reply::Hang);
    let client = builder(&agents).build().expect("a client");
    let mut flows = tokio::task::JoinSet::new();
    for started in 1..=50 {
        let checking = client.clone();
        flows.spawn(async move { decision(&checking).await });
        agents[0]
            .until("the check has reached an agent", |slow| {
                let busy: usize = client.agents().iter().map(|agent| agent.in_flight).sum();
                slow.checks().len() + agents[1].checks().len() == started
                    && busy == slow.checks().len()
            })
            .await;
    }
    assert_eq!(
        agents[0].checks().len(),
        1,
        "the slow agent has one check in flight and gets no other"
    );
    assert_eq!(client.agents()[0].in_flight, 1);
}

#[tokio::test]
async fn no_flow_fails_once_the_client_noticed_that_an_agent_died() {
    let agents = agents::<2>();
    let client = builder(&agents).build().expect("a client");
    let (noticed, stop) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (client, noticed, stop) = (client.clone(), Arc::clone(&noticed), Arc::clone(&stop));
        tasks.spawn(async move {
            while !stop.load(SeqCst) {
                let after_noticed = noticed.load(SeqCst);
                let flow = client.start_flow("checkout", FlowParams::new()).await;
                assert!(
                    !after_noticed || flow.error().is_none(),
                    "{:?}",
                    flow.error()
                );
                tokio::task::yield_now().await;
                flow.finish(FlowStatus::Ok);
            }
        });
    }
    let both = |_: &FakeAgent| agents.iter().all(|agent| agent.checks().len() > 100);
    agents[0].until("both agents are under load", both).await;
    agents[0].kill();
    agents[0]
        .until("the client notices the lost agent", |_| {
            client.agents()[0].state != ConnectionState::Ready
        })
        .await;
    noticed.store(true, SeqCst);
    let checks_before = agents[1].checks().len();
    agents[1]
        .until("the other agent gets further checks", |agent| {
            agent.checks().len() > checks_before + 500
        })
        .await;
    stop.store(true, SeqCst);
    while let Some(done) = tasks.join_next().await {
        done.expect("no flow fails after the loss was noticed");
    }
    assert!(
        client.stats().checks_moved > 0,
        "checks of the dead agent moved to the other one"
    );
    assert!(client.shutdown(LONG).await, "shutdown delivers all ends");
    let stats = client.stats();
    assert_eq!(stats.ends_delivered, stats.accepted);
    assert_eq!(stats.ends_failed + stats.ends_dropped, 0);
    assert_eq!(agents[1].tokens_in_flight(), 0);
}

#[tokio::test]
async fn an_end_goes_to_the_agent_that_accepted_the_flow() {
    let agents = agents::<2>();
    let client = builder(&agents).build().expect("a client");
    for _ in 0..50 {
        let flow = client.start_flow("checkout", FlowParams::new()).await;
        let ended = flow.end().await;
        assert!(ended.token_returns().iter().all(|token| token.returned));
    }
    assert!(agents.iter().all(|agent| agent.tokens_in_flight() == 0));
    let stats = client.stats();
    assert_eq!((stats.ends_delivered, stats.ends_moved), (50, 0));
}

#[tokio::test]
async fn an_end_goes_to_another_agent_when_its_own_is_down() {
    let agents = agents::<2>();
    let client = builder(&agents).build().expect("a client");
    let flow = flow_checked_by(&client, &agents, 0).await;
    agents[0].kill();
    let ended = flow.end().await;
    assert_eq!(ended.error(), None);
    let ends_of_other = agents[1].flow_ends();
    let ends_of_other = ends_of_other.last().expect("the other agent gets the end");
    let id = &ended.token_returns()[0].request_id;
    assert_eq!(&ends_of_other.inflight_requests[0].request_id, id);
    assert_eq!(client.stats().ends_moved, 1);
}

#[tokio::test]
async fn an_end_goes_to_another_agent_when_its_own_stops_answering() {
    let agents = agents::<2>();
    let client = builder(&agents)
        .end_timeout(Duration::from_millis(100))
        .build()
        .expect("a client");
    let flow = flow_checked_by(&client, &agents, 0).await;
    agents[0].freeze();
    let other = agents[1].refs_ended();
    flow.finish(FlowStatus::Ok);
    agents[1]
        .until("the other agent gets the end", |agent| {
            agent.refs_ended() > other
        })
        .await;
    agents[1]
        .until("the end is counted as moved", |_| {
            client.stats().ends_moved == 1
        })
        .await;
    agents[0].thaw();
}

#[tokio::test]
async fn flows_are_unreachable_while_all_agents_are_down() {
    let agents = agents::<2>();
    let client = builder(&agents).build().expect("a client");
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
    agents.iter().for_each(FakeAgent::kill);
    agents[0]
        .until("the client gives up both agents", |_| {
            // A check tries its own Agent and then the other one.
            let flow = client.start_flow("checkout", FlowParams::new());
            futures_util::FutureExt::now_or_never(flow);
            client.agents().iter().all(|agent| agent.given_up)
        })
        .await;
    assert_eq!(decision(&client).await, FlowDecision::Unreachable);
    assert_eq!(client.state(), ConnectionState::TransientFailure);
    let stats = client.stats();
    assert_eq!(stats.agents_given_up, 2);
    assert!(stats.checks_not_sent > 0);
    agents[1].restart();
    start_until_accepted(&client).await;
    assert_eq!(client.state(), ConnectionState::Ready);
    let given_up = client.agents().into_iter().map(|agent| agent.given_up);
    assert_eq!(given_up.collect::<Vec<_>>(), [true, false]);
    agents[0].restart();
    agents[0]
        .until("the client closes the breaker of the first agent", |_| {
            let flow = client.start_flow("checkout", FlowParams::new());
            futures_util::FutureExt::now_or_never(flow);
            client.agents().iter().all(|agent| !agent.given_up)
        })
        .await;
    drop(flow_checked_by(&client, &agents, 0).await);
}

#[tokio::test]
async fn cache_calls_go_to_an_agent_that_answers() {
    let agents = agents::<2>();
    agents[0].kill();
    let client = builder(&agents).build().expect("a client");
    agents[0]
        .until("the client gives up the dead agent", |_| {
            let flow = client.start_flow("checkout", FlowParams::new());
            futures_util::FutureExt::now_or_never(flow);
            client.agents()[0].given_up
        })
        .await;
    for _ in 0..10 {
        let params = FlowParams::new().global_cache_key("settings");
        let flow = client.start_flow("checkout", params).await;
        flow.global_cache("settings")
            .set("dark", LONG)
            .await
            .expect("the other agent stores the value");
    }
    assert_eq!(agents[1].upserts().len(), 10);
}

#[tokio::test]
async fn wait_ready_returns_when_one_agent_answers() {
    let agents = agents::<2>();
    agents[0].freeze();
    let client = builder(&agents).build().expect("a client");
    assert!(client.wait_ready(LONG).await);
    assert!(agents[1].checks().is_empty());
    agents[0].thaw();
}

#[cfg(feature = "telemetry")]
#[tokio::test]
async fn spans_go_to_another_agent_when_one_is_unavailable() {
    let agents = agents::<2>();
    let client = builder(&agents).build().expect("a client");
    for _ in 0..10 {
        assert_eq!(decision(&client).await, FlowDecision::Accepted);
    }
    agents[0].on_export(|_| Reply::Status(tonic::Status::unavailable("not here")));
    assert!(client.shutdown(LONG).await);
    assert_eq!(client.stats().spans_exported, 10);
    assert_eq!(agents[1].spans().len(), 10);
}
