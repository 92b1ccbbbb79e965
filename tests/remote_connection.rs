//! The connection: when it is made, how it is lost and found again, and what is told about it.
#![cfg(feature = "remote")]

mod support;

use std::time::Duration;

use support::agent::{FakeAgent, Reply, answer};
use tower_aperture::{
    ApertureClient, ApertureClientBuilder, Check, ConnectionState, Decider, FlowDecision,
    FlowError, FlowErrorKind, FlowParams, Verdict,
};

/// Longer than a busy machine takes; only what hangs takes as long.
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
fn building_and_asking_for_the_state_do_no_io_and_need_no_runtime() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    assert_eq!(client.state(), ConnectionState::Idle);
    drop(client);
    assert!(agent.calls().is_empty());
}

#[test]
fn a_flow_outside_a_runtime_is_unreachable_and_says_why() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    let flow = client.start_flow("checkout", FlowParams::new());
    let flow = futures_util::FutureExt::now_or_never(flow).expect("at once");
    let error = flow.error().expect("unreachable");
    assert_eq!(error.kind(), FlowErrorKind::Other);
    assert!(error.to_string().contains("tokio runtime"), "{error}");
}

#[test]
fn a_check_made_outside_a_runtime_and_awaited_inside_one_is_answered() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    let check = client.decide("checkout", &FlowParams::new());
    let Check::Pending(pending) = check else {
        panic!("an Agent is never asked at once");
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let verdict = runtime.block_on(pending);
    assert!(matches!(verdict, Verdict::Accepted(_)), "{verdict:?}");
}

#[tokio::test]
async fn the_state_follows_the_evidence() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
    assert_eq!(client.state(), ConnectionState::Ready);
    agent.kill();
    agent
        .until("noticed", |_| client.state() == ConnectionState::Idle)
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
async fn waiting_for_readiness_starts_no_flow_and_leaves_nothing_open() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    assert!(client.wait_ready(LONG).await);
    assert!(agent.checks().is_empty());
    let paths: Vec<_> = agent.calls().into_iter().map(|call| call.path).collect();
    assert_eq!(paths, ["/grpc.health.v1.Health/Check"]);
}

#[tokio::test]
async fn waiting_for_readiness_goes_on_until_the_agent_is_there() {
    let agent = FakeAgent::start();
    agent.kill();
    let client = builder(&agent).build().expect("a client");
    assert!(!client.wait_ready(Duration::from_millis(10)).await);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait_ready(LONG).await }
    });
    agent
        .until("tried", |_| {
            client.state() == ConnectionState::TransientFailure
        })
        .await;
    agent.restart();
    assert!(waiting.await.expect("no panic"));
}

#[tokio::test]
async fn the_first_flow_reaches_a_returned_agent_that_was_not_given_up() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    for _ in 0..3 {
        assert_eq!(decision(&client).await, FlowDecision::Accepted);
        agent.kill();
        agent
            .until("noticed", |_| client.state() == ConnectionState::Idle)
            .await;
        for _ in 0..4 {
            assert_eq!(decision(&client).await, FlowDecision::Unreachable);
        }
        agent.restart();
        assert_eq!(decision(&client).await, FlowDecision::Accepted);
    }
}

#[tokio::test]
async fn an_agent_killed_under_load_costs_decisions_and_nothing_hangs() {
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
        .until("load", |agent| agent.checks().len() > 300)
        .await;
    agent.restart();
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic");
    }
    // It may have been given up on the way.
    assert!(client.wait_ready(LONG).await);
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
    client.shutdown(LONG).await;
    let stats = client.stats();
    assert_eq!(stats.accepted + stats.unreachable, 64 * 50 + 1);
    let ended = stats.ends_delivered + stats.ends_failed + stats.ends_dropped;
    assert_eq!(ended, stats.accepted, "every end is delivered or counted");
}

#[tokio::test]
async fn a_frozen_agent_times_out_and_is_back_once_thawed() {
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
async fn keep_alive_gives_up_a_connection_that_went_silent() {
    let agent = FakeAgent::start();
    let client = builder(&agent)
        .keep_alive(Duration::from_millis(100), Duration::from_secs(3))
        .build()
        .expect("a client");
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
    agent.freeze();
    // Nothing else ends this one in time: the timeout is far away.
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    let error = flow.error().expect("unreachable");
    assert_eq!(error.kind(), FlowErrorKind::Unavailable, "{error}");
    agent.thaw();
}

#[tokio::test]
async fn keep_alive_gives_up_a_silent_connection_in_a_process_that_is_always_late() {
    let agent = FakeAgent::start();
    let client = builder(&agent)
        .keep_alive(Duration::from_millis(100), Duration::from_millis(300))
        .build()
        .expect("a client");
    assert_eq!(decision(&client).await, FlowDecision::Accepted);
    agent.freeze();
    // Every timer of this runtime fires up to 200 ms late.
    let late = tokio::spawn(async {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            tokio::task::yield_now().await;
        }
    });
    let params = FlowParams::new().check_timeout(Duration::from_secs(10));
    let flow = client.start_flow("checkout", params).await;
    let error = flow.error().expect("unreachable");
    assert_eq!(error.kind(), FlowErrorKind::Unavailable, "{error}");
    late.abort();
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
fn a_client_serves_two_runtimes_of_which_one_stands_still() {
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
async fn a_ready_made_channel_is_used_as_it_is() {
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
async fn localhost_and_a_scheme_are_addresses_too() {
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
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;
    use tonic::Status;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn of(&self, what: &str) -> usize {
            self.text()
                .lines()
                .filter(|line| line.contains(what))
                .count()
        }

        /// Warnings of this crate, within whatever span.
        fn warnings(&self) -> usize {
            let text = self.text();
            let ours = |line: &&str| line.contains(" WARN ") && line.contains(" tower_aperture: ");
            text.lines().filter(ours).count()
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("no panic").clone()).expect("text")
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Collects what this thread logs, dependencies included.
    fn collect() -> (Lines, tracing::subscriber::DefaultGuard) {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn a_warning_names_tls_to_a_plaintext_port() {
        let (lines, _guard) = collect();
        let agent = FakeAgent::start();
        let client = builder(&agent).insecure(false);
        let client = client.build().expect("a client");
        assert_eq!(decision(&client).await, FlowDecision::Unreachable);
        let text = lines.text();
        let named = text.lines().any(|line| {
            line.contains(" WARN ")
                && line.contains("the client speaks TLS and the agent's port plaintext")
        });
        assert!(named, "{text}");
    }

    #[tokio::test]
    async fn one_line_for_each_change_and_never_the_key() {
        let (lines, _guard) = collect();
        let agent = FakeAgent::start();
        agent.on_check(|request| Reply::Now(answer::limited(request)));
        let client = builder(&agent)
            .api_key("open-sesame")
            .build()
            .expect("a client");
        decision(&client).await;
        assert_eq!(lines.warnings(), 0);
        agent.kill();
        for _ in 0..10 {
            decision(&client).await;
        }
        assert_eq!(lines.of("no decisions from the Aperture agent"), 1);
        let given_up = "the Aperture agent is given up";
        while lines.of(given_up) == 0 {
            decision(&client).await;
        }
        assert_eq!(lines.of(given_up), 1);
        let named = format!("agent=\"{}\"", agent.address());
        assert_eq!(lines.of(&named), 2, "{}", lines.text());
        agent.restart();
        assert!(client.wait_ready(LONG).await);
        for _ in 0..5 {
            decision(&client).await;
        }
        assert_eq!(lines.of("the Aperture agent decides again"), 1);
        assert_eq!(lines.of("answers a health probe: it is asked again"), 1);
        agent.on_check(|_| Reply::Status(Status::unauthenticated("who are you")));
        for _ in 0..5 {
            decision(&client).await;
        }
        assert_eq!(lines.of("refuses the API key"), 1);
        assert_eq!(lines.warnings(), 3);
        assert!(!lines.text().contains("open-sesame"));
    }
}
