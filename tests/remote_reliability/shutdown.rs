//! `shutdown` keeps its timeout and returns `true` only if every end and span was sent.
//! `wait_ready` asks the Agent.

use std::time::{Duration, Instant};

use tower_aperture::FlowStatus;

use super::support::agent::{FakeAgent, Reply, answer};
use super::{LONG, accepted, block_on, builder, runtime};

fn granting_agent() -> FakeAgent {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    agent
}

#[test]
fn shutdown_outside_a_runtime_keeps_its_timeout_while_the_clients_runtime_is_idle() {
    for timeout in [0, 1, 100].map(Duration::from_millis) {
        let agent = granting_agent();
        let client = builder(&[&agent]).build().expect("a client");
        let idle = runtime();
        idle.block_on(async { accepted(&client).await.finish(FlowStatus::Ok) });
        let begun = Instant::now();
        assert!(!block_on(client.shutdown(timeout)), "the end was not sent");
        assert!(begun.elapsed() >= timeout);
        assert!(begun.elapsed() < LONG / 2);
        let stats = client.stats();
        let counted = stats.ends_delivered + stats.ends_failed + stats.ends_dropped;
        assert_eq!((stats.ends_delivered, counted), (0, 1));
        assert!(
            !block_on(client.shutdown(timeout)),
            "a second shutdown still reports the lost end"
        );
    }
}

#[test]
fn shutdown_outside_a_runtime_delivers_ends_through_a_running_runtime() {
    let agent = granting_agent();
    let client = builder(&[&agent]).build().expect("a client");
    let running = tokio::runtime::Runtime::new().expect("a runtime");
    let flow = running.block_on(accepted(&client));
    flow.finish(FlowStatus::Ok);
    assert!(block_on(client.shutdown(LONG)));
    assert_eq!(agent.tokens_in_flight(), 0);
    // A second shutdown, and that of an unused client, return at once.
    assert!(block_on(client.shutdown(Duration::ZERO)));
    let unused = builder(&[&agent]).build().expect("a client");
    assert!(block_on(unused.shutdown(Duration::ZERO)));
}

#[tokio::test]
async fn shutdown_waits_for_a_flow_that_holds_a_slot() {
    let agent = granting_agent();
    let client = builder(&[&agent]).build().expect("a client");
    let flow = accepted(&client).await;
    assert!(!client.shutdown(Duration::from_millis(50)).await);
    drop(flow);
    assert!(
        !client.shutdown(LONG).await,
        "the end came after the first shutdown"
    );
    assert_eq!(client.stats().ends_dropped, 1);

    let client = builder(&[&agent]).build().expect("a client");
    let flow = accepted(&client).await;
    let held = agent.tokens_in_flight();
    let shutdown = tokio::spawn({
        let client = client.clone();
        async move { client.shutdown(LONG).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!shutdown.is_finished());
    flow.finish(FlowStatus::Ok);
    assert!(shutdown.await.expect("no panic"));
    assert_eq!(agent.tokens_in_flight(), held - 1);
}

#[cfg(feature = "telemetry")]
#[tokio::test]
async fn shutdown_returns_false_when_the_agent_does_not_accept_a_span() {
    let agent = FakeAgent::start();
    agent.on_export(|_| Reply::Hang);
    let client = builder(&[&agent]).build().expect("a client");
    // The flow holds no slot: only its span is left to send.
    accepted(&client).await.finish(FlowStatus::Ok);
    assert!(!client.shutdown(Duration::from_millis(50)).await);
    agent
        .until("the span is counted as lost", |_| {
            let stats = client.stats();
            stats.spans_failed + stats.spans_dropped == 1
        })
        .await;
}

#[tokio::test]
async fn wait_ready_asks_the_agent_and_uses_no_earlier_answer() {
    let agent = FakeAgent::start();
    let client = builder(&[&agent]).build().expect("a client");
    let short = Duration::from_millis(200);
    for _ in 0..2 {
        assert!(client.wait_ready(LONG).await);
        drop(accepted(&client).await);
        agent.freeze();
        assert!(
            !client.wait_ready(short).await,
            "a frozen agent does not answer"
        );
        agent.thaw();
        assert!(client.wait_ready(LONG).await);
        agent.kill();
        assert!(
            !client.wait_ready(short).await,
            "a killed agent does not answer"
        );
        agent.restart();
    }
    let probes = {
        let before = client.stats().probes;
        assert!(client.wait_ready(LONG).await);
        client.stats().probes - before
    };
    assert!(probes > 0, "wait_ready sends a probe");
    assert!(client.stats().accepted == 2, "wait_ready starts no flow");
    assert!(client.shutdown(LONG).await);
    assert!(!client.wait_ready(short).await);
}

#[test]
fn wait_ready_keeps_its_timeout_outside_a_runtime() {
    let agent = FakeAgent::start();
    let client = builder(&[&agent]).build().expect("a client");
    assert!(!block_on(client.wait_ready(Duration::from_millis(10))));
    let running = tokio::runtime::Runtime::new().expect("a runtime");
    drop(running.block_on(accepted(&client)));
    assert!(block_on(client.wait_ready(LONG)));
    drop(running);
    let idle = runtime();
    drop(idle.block_on(accepted(&client)));
    assert!(!block_on(client.wait_ready(Duration::from_millis(10))));
}
