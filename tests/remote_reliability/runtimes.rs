//! Ends are delivered even if the runtime of their flow ends or is idle, or another Agent hangs.

use tower_aperture::{FlowParams, FlowStatus};

use super::support::agent::{FakeAgent, Reply, answer};
use super::{LONG, accepted, builder, runtime};

fn granting_agent() -> FakeAgent {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    agent
}

#[tokio::test]
async fn ends_for_an_agent_that_hangs_do_not_delay_ends_for_another() {
    let (hanging, working) = (granting_agent(), granting_agent());
    hanging.on_flow_end(|_| Reply::Hang);
    let client = builder(&[&hanging, &working])
        .telemetry(false)
        .build()
        .expect("a client");
    for round in 0..300 {
        // Ends of different control points are sent in different calls.
        let control_point = format!("point-{}", round % 60);
        let flow = client.start_flow(&control_point, FlowParams::new()).await;
        flow.finish(FlowStatus::Ok);
    }
    assert!(!hanging.checks().is_empty() && !working.checks().is_empty());
    working
        .until("the working agent has all ends", |agent| {
            agent.tokens_in_flight() == 0
        })
        .await;
    assert!(
        hanging.tokens_in_flight() > 0,
        "the ends for the hanging agent still wait"
    );
}

#[test]
fn an_end_is_sent_in_the_current_runtime_rather_than_in_an_idle_one() {
    let agent = granting_agent();
    let client = builder(&[&agent]).build().expect("a client");
    let (idle, current) = (runtime(), runtime());
    for idle_first in [false, true] {
        // Either of the two runtimes is used first.
        let runtimes = if idle_first {
            [&idle, &current]
        } else {
            [&current, &idle]
        };
        for runtime in runtimes {
            runtime.block_on(async { accepted(&client).await.end().await });
        }
        let dropped = runtime();
        let flow_of_idle = idle.block_on(accepted(&client));
        let flow_of_dropped = dropped.block_on(accepted(&client));
        drop(dropped);
        current.block_on(async {
            flow_of_idle.finish(FlowStatus::Ok);
            flow_of_dropped.finish(FlowStatus::Ok);
            agent
                .until("all slots are returned, and the client knows", |agent| {
                    let stats = client.stats();
                    agent.tokens_in_flight() == 0 && stats.ends_delivered == stats.accepted
                })
                .await;
        });
    }
}

#[test]
fn ends_that_wait_in_a_dropped_or_idle_runtime_are_sent_from_another() {
    for drop_first in [true, false] {
        let agent = granting_agent();
        let client = builder(&[&agent]).build().expect("a client");
        let (first, running) = (runtime(), runtime());
        running.block_on(accepted(&client)).finish(FlowStatus::Ok);
        first.block_on(async {
            let flow = accepted(&client).await;
            let other = accepted(&client).await;
            flow.finish(FlowStatus::Ok);
            drop(other);
            // `block_on` returns before the worker has sent the ends.
        });
        if drop_first {
            drop(first);
        }
        running.block_on(async {
            if !drop_first {
                // One end in a running runtime makes the client send the others too.
                accepted(&client).await.finish(FlowStatus::Ok);
            }
            assert!(client.shutdown(LONG).await);
        });
        assert_eq!(
            agent.tokens_in_flight(),
            0,
            "first runtime dropped: {drop_first}"
        );
        let stats = client.stats();
        assert_eq!(
            stats.ends_delivered, stats.accepted,
            "first runtime dropped: {drop_first}"
        );
    }
}

#[test]
fn ends_in_flight_in_a_dropped_runtime_are_sent_again_from_another() {
    let agent = granting_agent();
    let take = agent.take_tokens();
    agent.on_flow_end(|_| Reply::Hang);
    let client = builder(&[&agent]).build().expect("a client");
    let (first, second) = (runtime(), runtime());
    second.block_on(accepted(&client)).finish(FlowStatus::Ok);
    first.block_on(async {
        accepted(&client).await.finish(FlowStatus::Ok);
        agent
            .until("an end hangs at the agent", |agent| agent.refs_ended() > 0)
            .await;
    });
    agent.on_flow_end(move |request| Reply::Now(take(request)));
    drop(first);
    second.block_on(async {
        agent
            .until("all slots are returned", |agent| {
                agent.tokens_in_flight() == 0
            })
            .await;
        assert!(client.shutdown(LONG).await);
    });
    assert_eq!(client.stats().ends_failed, 0);
}

#[test]
fn no_end_is_lost_when_many_runtimes_start_and_end() {
    let agent = granting_agent();
    let client = builder(&[&agent]).build().expect("a client");
    let running = runtime();
    running.block_on(accepted(&client)).finish(FlowStatus::Ok);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || {
                for _ in 0..8 {
                    let runtime = runtime();
                    runtime.block_on(async {
                        for _ in 0..4 {
                            accepted(&client).await.finish(FlowStatus::Ok);
                        }
                    });
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    running
        .block_on(async {
            agent
                .until("all slots are returned", |agent| {
                    agent.tokens_in_flight() == 0
                })
                .await;
            tokio::time::timeout(LONG, client.shutdown(LONG)).await
        })
        .expect("shutdown returns");
    let stats = client.stats();
    assert_eq!(stats.accepted, 129);
    assert_eq!(stats.ends_failed + stats.ends_dropped, 0);
}
