//! `shutdown` keeps its timeout and says `true` only when nothing is left; `wait_ready` asks.

use std::time::{Duration, Instant};

use tower_aperture::FlowStatus;

use super::support::agent::{FakeAgent, Reply, answer};
use super::{LONG, accepted, block_on, builder, runtime};

fn granting() -> FakeAgent {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    agent
}

#[test]
fn outside_a_runtime_shutdown_keeps_its_timeout_while_the_clients_runtime_is_idle() {
    for timeout in [0, 1, 100].map(Duration::from_millis) {
        let agent = granting();
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
        assert!(!block_on(client.shutdown(timeout)), "it stays lost");
    }
}

#[test]
fn outside_a_runtime_shutdown_delivers_what_a_living_runtime_can_send() {
    let agent = granting();
    let client = builder(&[&agent]).build().expect("a client");
    let living = tokio::runtime::Runtime::new().expect("a runtime");
    let flow = living.block_on(accepted(&client));
    flow.finish(FlowStatus::Ok);
    assert!(block_on(client.shutdown(LONG)));
    assert_eq!(agent.tokens_in_flight(), 0);
    // A client that was never used, and a second call, have nothing to wait for.
    assert!(block_on(client.shutdown(Duration::ZERO)));
    let unused = builder(&[&agent]).build().expect("a client");
    assert!(block_on(unused.shutdown(Duration::ZERO)));
}

#[tokio::test]
async fn a_flow_that_holds_a_slot_keeps_shutdown_waiting() {
    let agent = granting();
    let client = builder(&[&agent]).build().expect("a client");
    let flow = accepted(&client).await;
    assert!(!client.shutdown(Duration::from_millis(50)).await);
    drop(flow);
    assert!(!client.shutdown(LONG).await, "its end came too late");
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
async fn a_span_that_is_not_taken_keeps_shutdown_from_saying_true() {
    let agent = FakeAgent::start();
    agent.on_export(|_| Reply::Hang);
    let client = builder(&[&agent]).build().expect("a client");
    // It holds no slot.
    accepted(&client).await.finish(FlowStatus::Ok);
    assert!(!client.shutdown(Duration::from_millis(50)).await);
    agent
        .until("counted", |_| {
            let stats = client.stats();
            stats.spans_failed + stats.spans_dropped == 1
        })
        .await;
}

#[tokio::test]
async fn readiness_is_asked_for_and_not_remembered() {
    let agent = FakeAgent::start();
    let client = builder(&[&agent]).build().expect("a client");
    let soon = Duration::from_millis(200);
    for _ in 0..2 {
        assert!(client.wait_ready(LONG).await);
        drop(accepted(&client).await);
        agent.freeze();
        assert!(!client.wait_ready(soon).await, "it does not answer");
        agent.thaw();
        assert!(client.wait_ready(LONG).await);
        agent.kill();
        assert!(!client.wait_ready(soon).await, "it is gone");
        agent.restart();
    }
    let answers = {
        let before = client.stats().probes;
        assert!(client.wait_ready(LONG).await);
        client.stats().probes - before
    };
    assert!(answers > 0, "an answer of its own");
    assert!(client.stats().accepted == 2, "no flow was started");
    assert!(client.shutdown(LONG).await);
    assert!(!client.wait_ready(soon).await);
}

#[test]
fn readiness_keeps_its_timeout_outside_a_runtime() {
    let agent = FakeAgent::start();
    let client = builder(&[&agent]).build().expect("a client");
    assert!(!block_on(client.wait_ready(Duration::from_millis(10))));
    let living = tokio::runtime::Runtime::new().expect("a runtime");
    drop(living.block_on(accepted(&client)));
    assert!(block_on(client.wait_ready(LONG)));
    drop(living);
    let idle = runtime();
    drop(idle.block_on(accepted(&client)));
    assert!(!block_on(client.wait_ready(Duration::from_millis(10))));
}
