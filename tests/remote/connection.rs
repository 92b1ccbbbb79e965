//! The connection to an Agent: when the client opens it, how the client loses and restores it, and
//! which state and log lines the client reports.
#![cfg(feature = "remote")]

use std::time::Duration;

use crate::support::agent::{FakeAgent, Reply, answer};
use tower_aperture::{
    ApertureClient, ApertureClientBuilder, Check, ConnectionState, Decider, FlowDecision,
    FlowError, FlowErrorKind, FlowParams, Verdict,
};

/// A timeout that only a call that hangs reaches, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn builder(agent: &FakeAgent) -> ApertureClientBuilder {
    ApertureClient::builder()
        .address(agent.address())
        .insecure(true)
        .connect_timeout(LONG)
        .check_timeout(LONG)
        .end_timeout(LONG)
}

async fn decision(client: &ApertureClient) -> FlowDecision {
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    flow.decision()
}

#[test]
fn build_and_state_do_no_io_and_need_no_runtime() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    assert_eq!(client.state(), ConnectionState::Idle);
    drop(client);
    assert!(agent.calls().is_empty());
}

#[test]
fn a_flow_outside_a_runtime_is_unreachable_and_its_error_names_tokio() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    let flow = client.start_flow("checkout", FlowParams::new());
    let flow = futures_util::FutureExt::now_or_never(flow).expect("at once");
    let error = flow.error().expect("unreachable");
    assert_eq!(error.kind(), FlowErrorKind::Other);
    assert!(error.to_string().contains("tokio runtime"), "{error}");
}

#[test]
fn a_check_that_is_made_outside_a_runtime_and_awaited_inside_one_is_decided() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    let check = client.decide("checkout", &FlowParams::new());
    let Check::Pending(pending) = check else {
        panic!("a check at an Agent is pending at first");
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let verdict = runtime.block_on(pending);
    assert!(matches!(verdict, Verdict::Accepted(_)), "{verdict:?}");
}

#[tokio::test]
async fn the_state_follows_the_connection() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
    assert_eq!(client.state(), ConnectionState::Ready);
    agent.kill();
    agent
        .until("the client notices the lost connection", |_| {
            client.state() == ConnectionState::Idle
        })
        .await;
    assert_eq!(decision(&client).await, FlowDecision::Unreachable);
    assert_eq!(client.state(), ConnectionState::TransientFailure);
    agent.restart();
    assert!(client.wait_ready(LONG).await);
    assert_eq!(client.state(), ConnectionState::Ready);
    client.shutdown(LONG).await;
    assert_eq!(client.state(), ConnectionState::Shutdown);
    assert!(!client.wait_ready(LONG).await);
}

#[tokio::test]
async fn wait_ready_sends_one_health_check_and_starts_no_flow() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    assert!(client.wait_ready(LONG).await);
    assert!(agent.checks().is_empty());
    let paths: Vec<_> = agent.calls().into_iter().map(|call| call.path).collect();
    assert_eq!(paths, ["/grpc.health.v1.Health/Check"]);
}

#[tokio::test]
async fn wait_ready_waits_until_the_agent_starts() {
    let agent = FakeAgent::start();
    agent.kill();
    let client = builder(&agent).build().expect("a client");
    assert!(!client.wait_ready(Duration::from_millis(10)).await);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait_ready(LONG).await }
    });
    agent
        .until("the client fails to connect", |_| {
            client.state() == ConnectionState::TransientFailure
        })
        .await;
    agent.restart();
    assert!(waiting.await.expect("no panic"));
}

#[tokio::test]
async fn the_first_flow_after_a_restart_reaches_an_agent_that_was_not_given_up() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    for _ in 0..3 {
        assert_eq!(decision(&client).await, FlowDecision::Accepted);
        agent.kill();
        agent
            .until("the client notices the lost connection", |_| {
                client.state() == ConnectionState::Idle
            })
            .await;
        for _ in 0..4 {
            assert_eq!(decision(&client).await, FlowDecision::Unreachable);
        }
        agent.restart();
        assert_eq!(decision(&client).await, FlowDecision::Accepted);
    }
}

#[tokio::test]
async fn no_flow_hangs_when_an_agent_is_killed_under_load() {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    let client = builder(&agent).connections(2).build().expect("a client");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let client = client.clone();
        tasks.spawn(async move {
            for _ in 0..50 {
                let flow = client.start_flow("checkout", FlowParams::new()).await;
                match flow.error().map(FlowError::kind) {
                    None | Some(FlowErrorKind::Unavailable) => drop(flow.end().await),
                    Some(other) => panic!("{other:?}"),
                }
            }
        });
    }
    agent
        .until("the agent is under load", |agent| {
            agent.checks().len() > 300
        })
        .await;
    agent.restart();
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic");
    }
    // The client may have given up the Agent meanwhile.
    assert!(client.wait_ready(LONG).await);
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
    client.shutdown(LONG).await;
    let stats = client.stats();
    assert_eq!(stats.accepted + stats.unreachable, 64 * 50 + 1);
    let ended = stats.ends_delivered + stats.ends_failed + stats.ends_dropped;
    assert_eq!(ended, stats.accepted, "every end is delivered or counted");
}

#[tokio::test]
async fn checks_time_out_while_the_agent_is_frozen_and_succeed_once_it_is_thawed() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
    agent.freeze();
    for _ in 0..3 {
        let params = FlowParams::new().check_timeout(Duration::from_millis(20));
        let flow = client.start_flow("checkout", params).await;
        assert_eq!(
            flow.error().map(FlowError::kind),
            Some(FlowErrorKind::Timeout)
        );
    }
    agent.thaw();
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
}

#[tokio::test]
async fn keep_alive_closes_a_connection_that_went_silent() {
    let agent = FakeAgent::start();
    let client = builder(&agent)
        .keep_alive(Duration::from_millis(100), Duration::from_secs(3))
        .build()
        .expect("a client");
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
    agent.freeze();
    // Only keep-alive can end this flow: its timeout is a minute away.
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    let error = flow.error().expect("unreachable");
    assert_eq!(error.kind(), FlowErrorKind::Unavailable, "{error}");
    agent.thaw();
}

#[tokio::test]
async fn keep_alive_closes_a_silent_connection_in_a_process_whose_timers_are_late() {
    let agent = FakeAgent::start();
    let client = builder(&agent)
        .keep_alive(Duration::from_millis(100), Duration::from_millis(300))
        .build()
        .expect("a client");
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
    agent.freeze();
    // Every timer of this runtime fires up to 200 ms late.
    let blocker = tokio::spawn(async {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            tokio::task::yield_now().await;
        }
    });
    let params = FlowParams::new().check_timeout(Duration::from_secs(10));
    let flow = client.start_flow("checkout", params).await;
    let error = flow.error().expect("unreachable");
    assert_eq!(error.kind(), FlowErrorKind::Unavailable, "{error}");
    blocker.abort();
    agent.thaw();
}

#[test]
fn a_client_outlives_its_first_runtime() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    for _ in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        assert_eq!(runtime.block_on(decision(&client)), FlowDecision::Accepted);
    }
}

#[test]
fn a_client_works_in_two_runtimes_while_one_of_them_is_idle() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let (first, second) = (runtime(), runtime());
    for _ in 0..2 {
        assert_eq!(first.block_on(decision(&client)), FlowDecision::Accepted);
        assert_eq!(second.block_on(decision(&client)), FlowDecision::Accepted);
    }
}

#[tokio::test]
async fn a_channel_from_the_caller_is_used_unchanged() {
    let agent = FakeAgent::start();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", agent.address()))
        .expect("an address")
        .connect_lazy();
    let client = ApertureClient::builder()
        .channel(channel)
        .api_key("sesame")
        .check_timeout(LONG)
        .build()
        .expect("a client");
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
    assert_eq!(client.state(), ConnectionState::Ready);
    assert_eq!(agent.calls()[0].api_key.as_deref(), Some("sesame"));
}

#[tokio::test]
async fn addresses_may_be_localhost_and_may_have_a_scheme() {
    let agent = FakeAgent::start();
    for address in [
        format!("localhost:{}", agent.port()),
        format!("http://127.0.0.1:{}", agent.port()),
        format!("http://127.0.0.1:{}/", agent.port()),
    ] {
        let client = ApertureClient::builder()
            .address(&*address)
            .check_timeout(LONG);
        let client = match address.starts_with("http") {
            true => client,
            false => client.insecure(true),
        };
        let client = client.build().expect("a client");
        assert_eq!(decision(&client).await, FlowDecision::Accepted, "{address}");
    }
}

#[cfg(feature = "tracing")]
mod logs {
    use tonic::Status;
    use tracing::Level;

    use super::*;
    use crate::support::logs::LogLines;

    /// Counts the warnings of this crate, in any span.
    fn count_warnings(lines: &LogLines) -> usize {
        lines.count(&[" WARN ", " tower_aperture: "])
    }

    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn a_warning_names_the_mismatch_of_tls_and_a_plaintext_port() {
        let (lines, _guard) = LogLines::collect(Level::TRACE);
        let agent = FakeAgent::start();
        let client = builder(&agent).insecure(false);
        let client = client.build().expect("a client");
        assert_eq!(decision(&client).await, FlowDecision::Unreachable);
        let parts = [
            " WARN ",
            "the client speaks TLS and the agent's port plaintext",
        ];
        assert!(lines.count(&parts) > 0, "{:?}", lines.all());
    }

    #[tokio::test]
    async fn each_change_of_state_is_logged_once_and_the_api_key_never() {
        let (lines, _guard) = LogLines::collect(Level::TRACE);
        let agent = FakeAgent::start();
        agent.on_check(|request| Reply::Now(answer::limited(request)));
        let client = builder(&agent)
            .api_key("open-sesame")
            .build()
            .expect("a client");
        decision(&client).await;
        assert_eq!(count_warnings(&lines), 0);
        agent.kill();
        for _ in 0..10 {
            decision(&client).await;
        }
        assert_eq!(lines.count(&["no decisions from the Aperture agent"]), 1);
        let given_up = "the Aperture agent is given up";
        while lines.count(&[given_up]) == 0 {
            decision(&client).await;
        }
        assert_eq!(lines.count(&[given_up]), 1);
        let named = format!("agent=\"{}\"", agent.address());
        assert_eq!(lines.count(&[&named]), 2, "{:?}", lines.all());
        agent.restart();
        assert!(client.wait_ready(LONG).await);
        for _ in 0..5 {
            decision(&client).await;
        }
        assert_eq!(lines.count(&["the Aperture agent decides again"]), 1);
        assert_eq!(
            lines.count(&["answers a health probe: it is asked again"]),
            1
        );
        agent.on_check(|_| Reply::Status(Status::unauthenticated("who are you")));
        for _ in 0..5 {
            decision(&client).await;
        }
        assert_eq!(lines.count(&["refuses the API key"]), 1);
        assert_eq!(count_warnings(&lines), 3);
        assert_eq!(lines.count(&["open-sesame"]), 0);
    }
}
