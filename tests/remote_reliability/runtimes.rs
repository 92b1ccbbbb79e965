//! Ends go out whatever becomes of the runtime that their flow started in, and of other Agents.

use tower_aperture::{FlowParams, FlowStatus};

use super::support::agent::{FakeAgent, Reply, answer};
use super::{LONG, accepted, builder, runtime};

fn granting() -> FakeAgent {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    agent
}

#[tokio::test]
async fn ends_for_an_agent_that_hangs_hold_up_none_for_another() {
    let (hangs, works) = (granting(), granting());
    hangs.on_flow_end(|_| Reply::Hang);
    let client = builder(&[&hangs, &works])
        .telemetry(false)
        .build()
        .expect("a client");
    for round in 0..300 {
        // Different control points do not share a call.
        let control_point = format!("point-{}", round % 60);
        let flow = client.start_flow(&control_point, FlowParams::new()).await;
        flow.finish(FlowStatus::Ok);
    }
    assert!(!hangs.checks().is_empty() && !works.checks().is_empty());
    works
        .until("the ends", |agent| agent.tokens_in_flight() == 0)
        .await;
    assert!(hangs.tokens_in_flight() > 0, "which still hang");
}

#[test]
fn an_end_goes_out_in_the_current_runtime_rather_than_in_an_idle_one() {
    let agent = granting();
    let client = builder(&[&agent]).build().expect("a client");
    let (idle, current) = (runtime(), runtime());
    for order in [false, true] {
        // Whichever of the two was used first.
        let runtimes = if order {
            [&idle, &current]
        } else {
            [&current, &idle]
        };
        for runtime in runtimes {
            runtime.block_on(async { accepted(&client).await.end().await });
        }
        let gone = runtime();
        let of_idle = idle.block_on(accepted(&client));
        let of_gone = gone.block_on(accepted(&client));
        drop(gone);
        current.block_on(async {
            of_idle.finish(FlowStatus::Ok);
            of_gone.finish(FlowStatus::Ok);
            agent
                .until("the slots back", |agent| agent.tokens_in_flight() == 0)
                .await;
        });
    }
    let stats = client.stats();
    assert_eq!(stats.ends_delivered, stats.accepted);
}

#[test]
fn ends_that_wait_in_a_runtime_that_ends_or_stands_still_move_to_a_living_one() {
    for ends in [true, false] {
        let agent = granting();
        let client = builder(&[&agent]).build().expect("a client");
        let (first, living) = (runtime(), runtime());
        living.block_on(accepted(&client)).finish(FlowStatus::Ok);
        first.block_on(async {
            let flow = accepted(&client).await;
            let other = accepted(&client).await;
            flow.finish(FlowStatus::Ok);
            drop(other);
            // The worker has had no turn to send them.
        });
        if ends {
            drop(first);
        }
        living.block_on(async {
            if !ends {
                // An end in a living runtime is enough to look after the others.
                accepted(&client).await.finish(FlowStatus::Ok);
            }
            assert!(client.shutdown(LONG).await);
        });
        assert_eq!(agent.tokens_in_flight(), 0, "ends: {ends}");
        let stats = client.stats();
        assert_eq!(stats.ends_delivered, stats.accepted, "ends: {ends}");
    }
}

#[test]
fn ends_on_their_way_in_a_runtime_that_ends_are_sent_again_from_another() {
    let agent = granting();
    let take = agent.take_tokens();
    agent.on_flow_end(|_| Reply::Hang);
    let client = builder(&[&agent]).build().expect("a client");
    let (first, second) = (runtime(), runtime());
    second.block_on(accepted(&client)).finish(FlowStatus::Ok);
    first.block_on(async {
        accepted(&client).await.finish(FlowStatus::Ok);
        agent
            .until("an end that hangs", |agent| agent.refs_ended() > 0)
            .await;
    });
    agent.on_flow_end(move |request| Reply::Now(take(request)));
    drop(first);
    second.block_on(async {
        agent
            .until("the slots back", |agent| agent.tokens_in_flight() == 0)
            .await;
        assert!(client.shutdown(LONG).await);
    });
    assert_eq!(client.stats().ends_failed, 0);
}

#[test]
fn many_runtimes_that_come_and_go_lose_no_end() {
    let agent = granting();
    let client = builder(&[&agent]).build().expect("a client");
    let living = runtime();
    living.block_on(accepted(&client)).finish(FlowStatus::Ok);
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
    living
        .block_on(async {
            agent
                .until("the slots back", |agent| agent.tokens_in_flight() == 0)
                .await;
            tokio::time::timeout(LONG, client.shutdown(LONG)).await
        })
        .expect("it ends");
    let stats = client.stats();
    assert_eq!(stats.accepted, 129);
    assert_eq!(stats.ends_failed + stats.ends_dropped, 0);
}
