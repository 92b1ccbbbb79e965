//! Ends of flows: each is delivered or counted as lost, and none delays its flow.
#![cfg(feature = "remote")]

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::support::agent::{FakeAgent, Gate, Reply, answer};
use tonic::Status;
use tower_aperture::pb::check::CheckResponse;
use tower_aperture::pb::check::check_response::RejectReason as Reason;
use tower_aperture::{
    ApertureClient, EndError, Flow, FlowDecision, FlowError, FlowErrorKind, FlowParams, FlowStatus,
};

/// A timeout that only a call that hangs reaches, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// Returns an Agent that grants a slot to each flow, and its client.
fn granting_agent() -> (FakeAgent, ApertureClient) {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    let client = client(&agent, LONG);
    (agent, client)
}

fn client(agent: &FakeAgent, end_timeout: Duration) -> ApertureClient {
    ApertureClient::builder()
        .address(agent.address())
        .insecure(true)
        .check_timeout(LONG)
        .connect_timeout(LONG)
        .end_timeout(end_timeout)
        .build()
        .expect("a client")
}

async fn start(client: &ApertureClient, control_point: &str) -> Flow {
    let flow = client.start_flow(control_point, FlowParams::new()).await;
    assert_eq!(flow.error(), None);
    flow
}

#[tokio::test]
async fn an_end_references_every_grant_of_the_answer() {
    let agent = FakeAgent::start();
    agent.on_check(|request| {
        let mut without_id = answer::limiter(false);
        if let Some(tower_aperture::pb::check::limiter_decision::Details::ConcurrencyLimiterInfo(
            info,
        )) = &mut without_id.details
        {
            info.request_id.clear();
        }
        Reply::Now(CheckResponse {
            limiter_decisions: vec![answer::limiter(false), without_id, answer::scheduler(true)],
            // The end must have the caller's control point, not this one.
            control_point: "elsewhere".to_owned(),
            ..answer::accepted(request)
        })
    });
    let client = client(&agent, LONG);
    let flow = start(&client, "checkout").await;
    let ended = flow.end().await;
    assert_eq!(ended.error(), None);
    assert_eq!(
        ended.token_returns().len(),
        2,
        "one of the limiter and one of the scheduler"
    );
    assert!(ended.token_returns().iter().all(|token| token.returned));
    let ends = agent.flow_ends();
    assert_eq!(ends.len(), 1);
    assert_eq!(ends[0].control_point, "checkout");
    let reference = &ends[0].inflight_requests[0];
    assert_eq!(reference.policy_name, "concurrency");
    assert_eq!(reference.policy_hash, "hash");
    assert_eq!(reference.component_id, "root.0");
    assert_eq!(reference.label, "user:42");
    assert_eq!(reference.request_id, ended.token_returns()[0].request_id);
    assert!((reference.tokens - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_rejected_flow_returns_its_grants() {
    let agent = FakeAgent::start();
    agent.on_check(|request| {
        Reply::Now(CheckResponse {
            limiter_decisions: vec![answer::limiter(true)],
            ..answer::rejected(request, Reason::RateLimited)
        })
    });
    let client = client(&agent, LONG);
    let flow = start(&client, "checkout").await;
    assert_eq!(flow.decision(), FlowDecision::Rejected);
    flow.end().await;
    assert_eq!(agent.refs_ended(), 1);
}

#[tokio::test]
async fn a_flow_without_grants_sends_no_end() {
    let agent = FakeAgent::start();
    let client = client(&agent, LONG);
    let ended = start(&client, "checkout").await.end().await;
    assert!(ended.error().is_none() && ended.token_returns().is_empty());
    assert!(client.shutdown(LONG).await);
    assert!(agent.flow_ends().is_empty());
    assert_eq!(client.stats().ends_delivered, 0);
}

#[tokio::test]
async fn a_dropped_flow_sends_its_end() {
    let (agent, client) = granting_agent();
    drop(start(&client, "checkout").await);
    agent
        .until("the end returns the token", |agent| {
            agent.tokens_in_flight() == 0
        })
        .await;
}

#[tokio::test]
async fn an_end_outside_any_runtime_is_delivered() {
    let (agent, client) = granting_agent();
    let flow = start(&client, "checkout").await;
    std::thread::spawn(move || flow.finish(FlowStatus::Ok))
        .join()
        .expect("no panic");
    agent
        .until("the end returns the token", |agent| {
            agent.tokens_in_flight() == 0
        })
        .await;
}

#[tokio::test]
async fn waiting_ends_are_sent_in_batches() {
    let (agent, client) = granting_agent();
    let mut flows = Vec::new();
    for at in 0..300 {
        let control_point = if at % 3 == 0 { "a" } else { "b" };
        flows.push(start(&client, control_point).await);
    }
    let gate = Gate::new();
    let (closed, take) = (gate.clone(), agent.take_tokens());
    agent.on_flow_end(move |request| Reply::When(closed.clone(), take(request)));
    // The first ends use every concurrent call; the others have to wait.
    for flow in flows.drain(..20) {
        flow.finish(FlowStatus::Ok);
    }
    agent
        .until("the first end reaches the agent", |agent| {
            !agent.flow_ends().is_empty()
        })
        .await;
    for flow in flows {
        flow.finish(FlowStatus::Ok);
    }
    gate.open();
    assert!(client.shutdown(LONG).await);
    assert_eq!(agent.tokens_in_flight(), 0);
    assert_eq!(client.stats().ends_delivered, 300);
    let ends = agent.flow_ends();
    assert!(ends.len() < 60, "{} calls for 300 flows", ends.len());
    let sizes = ends.iter().map(|end| end.inflight_requests.len());
    assert!(sizes.max() <= Some(256));
    assert_eq!(agent.refs_ended(), 300);
}

#[tokio::test]
async fn each_flow_of_a_batch_gets_its_own_part_of_the_answer() {
    let (agent, client) = granting_agent();
    let mut flows = Vec::new();
    for _ in 0..64 {
        flows.push(start(&client, "checkout").await);
    }
    let calls: Vec<_> = flows
        .into_iter()
        .map(|flow| {
            let answer = flow.check_response().expect("answered").into_owned();
            let id = match answer.limiter_decisions[0].details.clone() {
                Some(
                    tower_aperture::pb::check::limiter_decision::Details::ConcurrencyLimiterInfo(i),
                ) => i.request_id,
                other => panic!("{other:?}"),
            };
            (id, flow.end())
        })
        .collect();
    let (ids, ends): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
    for (id, ended) in ids
        .into_iter()
        .zip(futures_util::future::join_all(ends).await)
    {
        assert_eq!(ended.error(), None);
        assert_eq!(ended.token_returns().len(), 1);
        assert_eq!(ended.token_returns()[0].request_id, id);
    }
    assert_eq!(agent.tokens_in_flight(), 0);
}

#[tokio::test]
async fn the_caller_gets_the_agents_error_about_a_returned_token() {
    let (agent, client) = granting_agent();
    let flow = start(&client, "checkout").await;
    let take = agent.take_tokens();
    agent.on_flow_end(move |request| {
        let mut answer = take(request);
        answer.token_return_statuses[0].returned = false;
        answer.token_return_statuses[0].error = "flow ender not found".to_owned();
        Reply::Now(answer)
    });
    let ended = flow.end().await;
    assert_eq!(ended.error(), None, "the end itself was delivered");
    let token = &ended.token_returns()[0];
    assert!(!token.returned);
    assert_eq!(token.error.as_deref(), Some("flow ender not found"));
    assert_eq!(client.stats().ends_delivered, 1);
}

#[tokio::test]
async fn an_end_is_retried_once_when_the_agent_is_unavailable() {
    let (agent, client) = granting_agent();
    let flow = start(&client, "checkout").await;
    let (tries, take) = (AtomicUsize::new(0), agent.take_tokens());
    agent.on_flow_end(move |request| match tries.fetch_add(1, SeqCst) {
        0 => Reply::Status(Status::unavailable("one moment")),
        _ => Reply::Now(take(request)),
    });
    assert_eq!(flow.end().await.error(), None);
    let stats = client.stats();
    assert_eq!((stats.ends_retried, stats.ends_delivered), (1, 1));
    assert_eq!(agent.flow_ends().len(), 2);
}

#[tokio::test]
async fn an_end_is_not_sent_a_third_time_and_not_retried_after_a_refusal() {
    let (agent, client) = granting_agent();
    for (status, tries, kind) in [
        (Status::unavailable("no"), 2, FlowErrorKind::Unavailable),
        (Status::internal("no"), 1, FlowErrorKind::Other),
    ] {
        let before = agent.flow_ends().len();
        let flow = start(&client, "checkout").await;
        agent.on_flow_end(move |_| Reply::Status(status.clone()));
        let ended = flow.end().await;
        let Some(EndError::Call(error)) = ended.error() else {
            panic!("{:?}", ended.error());
        };
        assert_eq!(error.kind(), kind);
        assert_eq!(agent.flow_ends().len() - before, tries);
    }
    let stats = client.stats();
    assert_eq!((stats.ends_retried, stats.ends_failed), (1, 2));
    assert_eq!(stats.ends_delivered, 0);
}

#[tokio::test]
async fn an_end_is_delivered_after_a_restart_of_the_agent() {
    let (agent, client) = granting_agent();
    let flow = start(&client, "checkout").await;
    agent.restart();
    assert_eq!(flow.end().await.error(), None);
    assert_eq!(agent.tokens_in_flight(), 0);
}

#[tokio::test]
async fn an_end_is_retried_until_a_restarting_agent_accepts_connections() {
    let (agent, client) = granting_agent();
    let flow = start(&client, "checkout").await;
    agent.kill();
    let end = tokio::spawn(flow.end());
    agent
        .until("the end is retried", |_| client.stats().ends_retried == 1)
        .await;
    // The second attempt fails too.
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert!(!end.is_finished());
    agent.restart();
    assert_eq!(end.await.expect("no panic").error(), None);
    assert_eq!(agent.tokens_in_flight(), 0);
    assert_eq!(client.stats().ends_delivered, 1);
}

#[tokio::test]
async fn an_end_that_hangs_stops_at_its_timeout_and_is_counted() {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    agent.on_flow_end(|_| Reply::Hang);
    let client = client(&agent, Duration::from_millis(100));
    let ended = start(&client, "checkout").await.end().await;
    let Some(EndError::Call(error)) = ended.error() else {
        panic!("{:?}", ended.error());
    };
    assert!(error.is_timeout());
    agent
        .until("the end is counted as failed", |_| {
            client.stats().ends_failed == 1
        })
        .await;
}

#[tokio::test]
async fn an_end_that_hangs_does_not_delay_other_ends() {
    let (agent, client) = granting_agent();
    let stuck = start(&client, "stuck").await;
    let take = agent.take_tokens();
    agent.on_flow_end(move |request| match request.control_point.as_str() {
        "stuck" => Reply::Hang,
        _ => Reply::Now(take(request)),
    });
    stuck.finish(FlowStatus::Ok);
    agent
        .until("the hanging end reaches the agent", |agent| {
            agent.refs_ended() == 1
        })
        .await;
    for _ in 0..20 {
        assert_eq!(start(&client, "checkout").await.end().await.error(), None);
    }
    assert_eq!(agent.tokens_in_flight(), 1);
}

#[tokio::test]
async fn an_end_is_delivered_when_its_future_is_dropped() {
    let (agent, client) = granting_agent();
    let flow = start(&client, "checkout").await;
    let mut end = Box::pin(flow.end());
    std::future::poll_fn(|cx| {
        let _ = end.as_mut().poll(cx);
        std::task::Poll::Ready(())
    })
    .await;
    drop(end);
    agent
        .until("the end returns the token", |agent| {
            agent.tokens_in_flight() == 0
        })
        .await;
}

#[tokio::test]
async fn shutdown_delivers_waiting_ends_and_refuses_new_flows() {
    let (agent, client) = granting_agent();
    for _ in 0..50 {
        start(&client, "checkout").await.finish(FlowStatus::Ok);
    }
    assert!(client.shutdown(LONG).await);
    assert_eq!(agent.refs_ended(), 50);
    assert_eq!(client.stats().ends_delivered, 50);
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    assert_eq!(
        flow.error().map(FlowError::kind),
        Some(FlowErrorKind::ShutDown)
    );
    assert!(client.shutdown(LONG).await, "the agent has every end");
}

#[tokio::test]
async fn the_end_of_a_flow_that_outlives_shutdown_is_lost_and_counted() {
    let (agent, client) = granting_agent();
    let late = start(&client, "checkout").await;
    start(&client, "checkout").await.finish(FlowStatus::Ok);
    assert!(!client.shutdown(Duration::from_millis(200)).await);
    let ended = late.end().await;
    assert_eq!(ended.error(), Some(&EndError::ShutDown));
    assert_eq!(client.stats().ends_dropped, 1);
    assert!(
        !client.shutdown(LONG).await,
        "a second shutdown still reports the lost end"
    );
    assert!(agent.tokens_in_flight() > 0);
}

#[tokio::test]
async fn shutdown_returns_false_when_it_could_not_deliver_an_end() {
    let (agent, client) = granting_agent();
    agent.on_flow_end(|_| Reply::Hang);
    start(&client, "checkout").await.finish(FlowStatus::Ok);
    assert!(!client.shutdown(Duration::from_millis(50)).await);
    agent
        .until("the end is counted as lost", |_| {
            let stats = client.stats();
            stats.ends_failed + stats.ends_dropped == 1
        })
        .await;
}

#[tokio::test]
async fn ends_are_delivered_after_the_last_handle_of_the_client_is_dropped() {
    let (agent, client) = granting_agent();
    for _ in 0..10 {
        start(&client, "checkout").await.finish(FlowStatus::Ok);
    }
    drop(client);
    agent
        .until("the ends return all tokens", |agent| {
            agent.tokens_in_flight() == 0
        })
        .await;
    assert_eq!(agent.refs_ended(), 10);
}

#[test]
fn ends_in_a_dropped_runtime_are_counted_as_lost_and_later_ends_are_delivered() {
    let (agent, client) = granting_agent();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let flows = runtime.block_on(async {
        agent.on_flow_end(|_| Reply::Hang);
        start(&client, "checkout").await.finish(FlowStatus::Ok);
        agent
            .until("the hanging end reaches the agent", |agent| {
                agent.refs_ended() == 1
            })
            .await;
        [
            start(&client, "checkout").await,
            start(&client, "checkout").await,
        ]
    });
    drop(runtime);
    let [first, second] = flows;
    first.finish(FlowStatus::Ok);
    let stats = client.stats();
    assert_eq!((stats.ends_failed, stats.ends_dropped), (1, 1));
    // In another runtime, the client can send the end.
    let take = agent.take_tokens();
    agent.on_flow_end(move |request| Reply::Now(take(request)));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ended = runtime.block_on(second.end());
    assert_eq!(ended.error(), None);
    assert_eq!(client.stats().ends_delivered, 1);
}
