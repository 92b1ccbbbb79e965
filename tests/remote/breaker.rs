//! The breaker: it opens for an Agent that does not answer, so that flows no longer wait, and
//! closes when a probe finds the Agent again.
#![cfg(feature = "remote")]

use std::time::Duration;

use crate::support::agent::{FakeAgent, Reply, answer};
use futures_util::FutureExt;
use tokio::runtime::Handle;
use tonic::Status;
use tower_aperture::pb::check::CheckResponse;
use tower_aperture::pb::check::check_response::RejectReason;
use tower_aperture::{
    ApertureClient, ApertureClientBuilder, Check, ConnectionState, Decider, EndError, FlowDecision,
    FlowError, FlowErrorKind, FlowParams, FlowStatus, Verdict,
};

/// A timeout that only a call that hangs reaches, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// The probe interval of tests that wait for a probe.
const SOON: Duration = Duration::from_millis(20);

/// A probe interval so long that no second probe runs during a test.
const NEVER: Duration = Duration::from_secs(86_400);

fn builder(agent: &FakeAgent) -> ApertureClientBuilder {
    ApertureClient::builder()
        .address(agent.address())
        .insecure(true)
        .connect_timeout(LONG)
        .check_timeout(LONG)
        .end_timeout(LONG)
}

/// Starts a flow with a timeout of 10 ms and returns the kind of its failure.
async fn failure_of_short_flow(client: &ApertureClient) -> Option<FlowErrorKind> {
    let params = FlowParams::new().check_timeout(Duration::from_millis(10));
    let flow = client.start_flow("checkout", params).await;
    flow.error().map(FlowError::kind)
}

async fn decision(client: &ApertureClient) -> FlowDecision {
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    flow.decision()
}

fn given_up(client: &ApertureClient) -> bool {
    client.agents()[0].given_up
}

async fn fail_until_given_up(client: &ApertureClient) {
    for _ in 0..10_000 {
        if given_up(client) {
            return;
        }
        assert!(failure_of_short_flow(client).await.is_some());
    }
    panic!("the agent is never given up");
}

#[tokio::test]
async fn after_five_timeouts_in_a_row_and_a_failed_probe_flows_no_longer_wait() {
    let agent = FakeAgent::start();
    let client = builder(&agent).breaker(5, NEVER).build().expect("a client");
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
    agent.freeze();
    for _ in 0..4 {
        assert_eq!(
            failure_of_short_flow(&client).await,
            Some(FlowErrorKind::Timeout)
        );
    }
    assert!(!given_up(&client), "four failures are not five");
    fail_until_given_up(&client).await;
    assert_eq!(client.state(), ConnectionState::TransientFailure);
    let before = client.stats();
    assert!(before.probes > 0 && before.timeouts >= 5);
    for _ in 0..1000 {
        // The timeout is a minute: a flow that is ready at once has not waited.
        let flow = client.start_flow("checkout", FlowParams::new());
        let flow = flow.now_or_never().expect("the flow does not wait");
        let error = flow.error().expect("unreachable");
        assert_eq!(error.kind(), FlowErrorKind::Unavailable);
        assert!(flow.should_run());
    }
    let check = client.decide("checkout", &FlowParams::new());
    assert!(matches!(check, Check::Ready(Verdict::Unreachable(_))));
    let stats = client.stats();
    assert_eq!(stats.timeouts, before.timeouts);
    assert_eq!(stats.checks_not_sent, before.checks_not_sent + 1001);
    assert_eq!(stats.agents_given_up, 1);
    agent.thaw();
}

#[tokio::test]
async fn an_agent_that_accepts_connections_and_sends_no_bytes_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let client = ApertureClient::builder()
        .address(address)
        .insecure(true)
        .breaker(3, NEVER)
        .build()
        .expect("a client");
    fail_until_given_up(&client).await;
    let flow = client.start_flow("checkout", FlowParams::new());
    assert!(flow.now_or_never().is_some(), "the flow does not wait");
}

#[tokio::test]
async fn a_probe_finds_a_returned_agent_and_no_flow_waits_for_the_probe() {
    let agent = FakeAgent::start();
    let client = builder(&agent).breaker(2, SOON).build().expect("a client");
    for _ in 0..3 {
        assert_eq!(decision(&client).await, FlowDecision::Accepted);
        agent.freeze();
        fail_until_given_up(&client).await;
        let before = client.stats().probes;
        // These flows have long timeouts: if they waited, the frozen Agent would block them.
        agent
            .until("further probes run", |_| {
                let flow = client.start_flow("checkout", FlowParams::new());
                let flow = flow.now_or_never().expect("the flow does not wait");
                assert_eq!(flow.decision(), FlowDecision::Unreachable);
                client.stats().probes > before + 2
            })
            .await;
        agent.thaw();
        let found = async {
            while decision(&client).await != FlowDecision::Accepted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = tokio::time::timeout(LONG, found).await;
        in_time.expect("a probe finds the agent");
        assert_eq!(client.state(), ConnectionState::Ready);
        assert!(!given_up(&client));
    }
    assert_eq!(client.stats().agents_given_up, 3);
}

/// The cost of the rule that a long queue never counts as a dead Agent.
#[tokio::test]
async fn checks_wait_for_an_agent_that_answers_probes_even_if_all_its_checks_fail() {
    let replies: [fn() -> Reply<CheckResponse>; 5] = [
        || Reply::Hang,
        || Reply::Status(Status::unavailable("no")),
        || Reply::Status(Status::deadline_exceeded("no")),
        || Reply::Status(Status::cancelled("no")),
        || Reply::Status(Status::internal("no")),
    ];
    for reply in replies {
        let agent = FakeAgent::start();
        agent.on_check(move |request| match request.control_point.as_str() {
            "limited" => Reply::Now(answer::rejected(request, RejectReason::RateLimited)),
            _ => reply(),
        });
        let client = builder(&agent)
            .breaker(1, SOON)
            .check_grace(Duration::from_millis(10))
            .build()
            .expect("a client");
        for _ in 0..30 {
            assert!(failure_of_short_flow(&client).await.is_some());
            let limited = client.start_flow("limited", FlowParams::new()).await;
            assert_eq!(limited.decision(), FlowDecision::Rejected);
        }
        assert!(!given_up(&client));
        assert_eq!(client.stats().agents_given_up, 0);
    }
}

#[tokio::test]
async fn timeouts_of_short_flows_do_not_open_the_breaker_for_longer_flows() {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::After(Duration::from_millis(100), answer::accepted(request)));
    let client = builder(&agent)
        .breaker(3, NEVER)
        .check_grace(Duration::ZERO)
        .build()
        .expect("a client");
    for _ in 0..5 {
        for _ in 0..6 {
            assert_eq!(
                failure_of_short_flow(&client).await,
                Some(FlowErrorKind::Timeout)
            );
        }
        assert_eq!(decision(&client).await, FlowDecision::Accepted);
    }
    assert_eq!(client.stats().agents_given_up, 0);
}

#[tokio::test]
async fn a_stall_of_the_clients_own_process_does_not_open_the_breaker() {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::After(Duration::from_millis(20), answer::accepted(request)));
    let client = builder(&agent).breaker(1, NEVER).build().expect("a client");
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
    for pause in [30, 400, 1500] {
        let params = || FlowParams::new().check_timeout(Duration::from_millis(10));
        let flows = (0..10).map(|_| client.start_flow("checkout", params()));
        let stall = async {
            tokio::task::yield_now().await;
            // Blocks the only thread of this runtime.
            std::thread::sleep(Duration::from_millis(pause));
        };
        tokio::join!(futures_util::future::join_all(flows), stall);
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(pause));
        assert_eq!(decision(&client).await, FlowDecision::Accepted);
    }
    assert_eq!(client.stats().agents_given_up, 0);
}

#[tokio::test]
async fn error_statuses_of_the_agent_count_as_answers() {
    for status in [
        Status::invalid_argument("no"),
        Status::unauthenticated("no"),
        Status::permission_denied("no"),
        Status::resource_exhausted("no"),
        Status::unimplemented("no"),
        Status::internal("no"),
        Status::unknown("no"),
    ] {
        let agent = FakeAgent::start();
        let code = status.code();
        agent.on_check(move |_| Reply::Status(status.clone()));
        let client = builder(&agent).breaker(2, NEVER).build().expect("a client");
        for _ in 0..10 {
            assert_eq!(decision(&client).await, FlowDecision::Unreachable);
        }
        assert!(!given_up(&client), "{code:?}");
        assert_eq!(agent.checks().len(), 10, "{code:?}");
    }
}

#[tokio::test]
async fn an_answer_resets_the_count_of_failures() {
    let agent = FakeAgent::start();
    agent.on_check(|request| match request.control_point.as_str() {
        "hang" => Reply::Hang,
        _ => Reply::Now(answer::accepted(request)),
    });
    let client = builder(&agent).breaker(2, NEVER).build().expect("a client");
    for _ in 0..5 {
        let params = FlowParams::new().check_timeout(Duration::from_millis(5));
        let flow = client.start_flow("hang", params).await;
        assert_eq!(flow.decision(), FlowDecision::Unreachable);
        assert_eq!(decision(&client).await, FlowDecision::Accepted);
    }
    assert!(!given_up(&client));
}

#[tokio::test]
async fn with_zero_failures_the_breaker_never_opens() {
    let agent = FakeAgent::start();
    agent.kill();
    let client = builder(&agent).breaker(0, SOON).build().expect("a client");
    for _ in 0..20 {
        assert_eq!(decision(&client).await, FlowDecision::Unreachable);
    }
    assert!(!given_up(&client));
    agent.restart();
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
}

#[tokio::test]
async fn an_end_waits_until_its_agent_returns() {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    let client = builder(&agent).breaker(2, SOON).build().expect("a client");
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    agent.kill();
    fail_until_given_up(&client).await;
    let end = tokio::spawn(flow.end());
    let before = client.stats().probes;
    // No flow is started: the waiting end alone makes the client probe the Agent.
    agent
        .until("further probes run", |_| client.stats().probes > before + 1)
        .await;
    assert!(!end.is_finished());
    agent.restart();
    let ended = end.await.expect("no panic");
    assert_eq!(ended.error(), None);
    assert!(ended.token_returns()[0].returned);
    assert_eq!(agent.tokens_in_flight(), 0);
}

#[tokio::test]
async fn an_end_whose_agent_does_not_return_is_counted_as_failed() {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    let client = builder(&agent)
        .breaker(2, SOON)
        .end_timeout(Duration::from_millis(200))
        .build()
        .expect("a client");
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    agent.freeze();
    fail_until_given_up(&client).await;
    let ended = flow.end().await;
    assert!(matches!(ended.error(), Some(EndError::Call(_))));
    agent
        .until("the end is counted as failed", |_| {
            client.stats().ends_failed == 1
        })
        .await;
    agent.thaw();
}

#[tokio::test]
async fn shutdown_while_the_agent_is_given_up_returns_and_counts_the_lost_end() {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    let client = builder(&agent).breaker(2, NEVER).build().expect("a client");
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    agent.kill();
    fail_until_given_up(&client).await;
    flow.finish(FlowStatus::Ok);
    // Half the time for which the end would wait.
    let done = tokio::time::timeout(LONG / 2, client.shutdown(LONG)).await;
    assert_eq!(done, Ok(false), "shutdown reports that an end was lost");
    assert_eq!(client.stats().ends_failed, 1);
    assert_eq!(client.state(), ConnectionState::Shutdown);
    assert_eq!(client.agents()[0].state, ConnectionState::Shutdown);
}

#[tokio::test]
async fn an_outage_leaves_no_task_behind() {
    let alive = || Handle::current().metrics().num_alive_tasks();
    let agent = FakeAgent::start();
    let before = alive();
    let client = builder(&agent)
        .breaker(2, Duration::from_millis(1))
        // Without telemetry: the export of a span would be retried until the end timeout.
        .telemetry(false)
        .build()
        .expect("a client");
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
    let connected = alive();
    agent.freeze();
    fail_until_given_up(&client).await;
    agent
        .until("further probes run", |_| {
            let flow = client.start_flow("checkout", FlowParams::new());
            drop(flow.now_or_never().expect("the flow does not wait"));
            client.stats().probes > 50
        })
        .await;
    // A running probe has its own connection, whose tasks end with the probe.
    agent
        .until("the last probe ends", |_| alive() <= connected)
        .await;
    drop(client);
    agent
        .until("the client's tasks end", |_| alive() <= before)
        .await;
    agent.thaw();
}

#[test]
fn a_hanging_probe_ends_with_its_runtime_and_does_not_delay_the_next_probe() {
    let agent = FakeAgent::start();
    let client = builder(&agent).breaker(1, SOON).build().expect("a client");
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    };
    agent.freeze();
    runtime().block_on(async {
        fail_until_given_up(&client).await;
        let before = client.stats().probes;
        agent
            .until("further probes run", |_| {
                let flow = client.start_flow("checkout", FlowParams::new());
                drop(flow.now_or_never().expect("the flow does not wait"));
                client.stats().probes > before
            })
            .await;
    });
    agent.thaw();
    runtime().block_on(async {
        let found = async {
            while decision(&client).await != FlowDecision::Accepted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = tokio::time::timeout(LONG, found).await;
        in_time.expect("a probe of the second runtime finds the agent");
    });
}
