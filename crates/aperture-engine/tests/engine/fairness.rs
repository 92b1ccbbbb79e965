//! Workers that start one flow after another get fair shares of slots and tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response, StatusCode};
use tokio::sync::Barrier;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::engine::Engine;
use tower_aperture::{ApertureClient, ApertureLayer, FlowParams};

use crate::queues::{policy_of, quota, slots};
use crate::support::HERE;

const QUEUE_TIMEOUT_600S: &str = ", default_workload_parameters: {queue_timeout: 600s}";

/// A workload per team, whose flows have the priority of their label.
const BY_PRIORITY: &str =
    ", workload_label_key: team, default_workload_parameters: {queue_timeout: 600s}";

fn client_of(component: String) -> ApertureClient {
    let engine = Engine::builder()
        .policy_text("test.yaml", policy_of(&[component]))
        .build();
    ApertureClient::embedded(engine.expect("the policy is valid"))
}

fn params() -> FlowParams<'static> {
    FlowParams::new().check_timeout(Duration::from_secs(600))
}

/// Occupies a flow for this long, from when it runs.
async fn work(time: Duration) {
    tokio::time::sleep(time).await;
}

/// The number of flows that each worker has run.
type Turns = Vec<usize>;

/// Lets workers run guarded flows for some seconds of paused time. `labels` returns the labels of a
/// worker's flows.
async fn run_workers_for(
    seconds: u64,
    client: &ApertureClient,
    workers: usize,
    labels: impl Fn(usize) -> Vec<(&'static str, &'static str)>,
) -> Turns {
    let until = Instant::now() + Duration::from_secs(seconds);
    let tasks = (0..workers).map(|worker| {
        let client = client.clone();
        let labels = labels(worker);
        tokio::spawn(async move {
            let mut turns = 0;
            while Instant::now() < until {
                let work = work(Duration::from_millis(10));
                let params = params().labels(labels.clone());
                client
                    .guard(HERE, params, work)
                    .await
                    .expect("the flow is accepted in time");
                turns += 1;
            }
            turns
        })
    });
    let mut turns = Turns::new();
    for task in tasks.collect::<Vec<_>>() {
        turns.push(task.await.expect("no worker panics"));
    }
    turns
}

fn no_labels(_: usize) -> Vec<(&'static str, &'static str)> {
    Vec::new()
}

/// Returns the total of the turns, divided into parts.
fn share(turns: &[usize], parts: usize) -> f64 {
    turns.iter().sum::<usize>() as f64 / parts as f64
}

/// Asserts that each worker has at least half of the average.
fn assert_fair(turns: &[usize], context: &str) {
    let average = share(turns, turns.len());
    let fair = |turns: &usize| *turns as f64 >= average / 2.0;
    assert!(turns.iter().all(fair), "{context}: {turns:?}");
}

#[tokio::test(start_paused = true)]
async fn each_worker_gets_its_share_of_slots() {
    for (slot_count, workers) in [(4, 5), (4, 8), (4, 12), (4, 20), (1, 7), (3, 64)] {
        let client = client_of(slots(f64::from(slot_count), "", QUEUE_TIMEOUT_600S));
        let turns = run_workers_for(20, &client, workers, no_labels).await;
        let (least, most) = (turns.iter().min(), turns.iter().max());
        let (least, most) = (
            least.expect("there are workers"),
            most.expect("there are workers"),
        );
        assert!(
            most - least <= 2,
            "{slot_count} slots for {workers} workers: {turns:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_worker_gets_its_share_of_tokens() {
    // From half a token to three tokens in the 10 ms of a turn.
    for (rate, workers) in [(50.0, 8), (100.0, 20), (300.0, 40)] {
        let client = client_of(quota(1.0, rate, QUEUE_TIMEOUT_600S));
        let turns = run_workers_for(20, &client, workers, no_labels).await;
        assert_fair(
            &turns,
            &format!("{rate} tokens a second for {workers} workers"),
        );
    }
}

/// Returns the labels of a team. Gold has three times the priority of basic.
fn team(gold: bool) -> [(&'static str, &'static str); 2] {
    match gold {
        true => [("team", "gold"), ("priority", "3")],
        false => [("team", "basic"), ("priority", "1")],
    }
}

#[tokio::test(start_paused = true)]
async fn priorities_set_the_shares_of_teams_and_workers_share_within_a_team() {
    let components = [
        slots(1.0, "", BY_PRIORITY),
        slots(4.0, "", BY_PRIORITY),
        quota(1.0, 200.0, BY_PRIORITY),
    ];
    for component in components {
        for (gold, basic) in [(10, 10), (5, 15), (15, 5)] {
            let client = client_of(component.clone());
            let labels = move |worker| team(worker < gold).to_vec();
            let turns = run_workers_for(20, &client, gold + basic, labels).await;
            let (gold_turns, basic_turns) = turns.split_at(gold);
            let ratio = share(gold_turns, 1) / share(basic_turns, 1);
            assert!((2.7..3.3).contains(&ratio), "{ratio}: {turns:?}");
            assert_fair(gold_turns, "gold");
            assert_fair(basic_turns, "basic");
        }
    }
}

/// Lets workers take turns on the threads of the runtime, until `enough` turns were taken.
async fn run_workers_until<F>(enough: usize, workers: usize, turn: impl Fn() -> F) -> Turns
where
    F: Future<Output = ()> + Send + 'static,
{
    let done = Arc::new(AtomicUsize::new(0));
    // Without it, a busy machine lets the first workers take all turns before the last ones exist.
    let all_exist = Arc::new(Barrier::new(workers));
    let tasks = (0..workers).map(|_| {
        let done = Arc::clone(&done);
        let all_exist = Arc::clone(&all_exist);
        let mut next = turn();
        let more: Vec<F> = (0..enough).map(|_| turn()).collect();
        tokio::spawn(async move {
            all_exist.wait().await;
            let mut turns = 0;
            for following in more {
                if done.load(Ordering::Relaxed) >= enough {
                    break;
                }
                std::mem::replace(&mut next, following).await;
                done.fetch_add(1, Ordering::Relaxed);
                turns += 1;
            }
            turns
        })
    });
    let mut turns = Turns::new();
    for task in tasks.collect::<Vec<_>>() {
        turns.push(task.await.expect("no worker panics"));
    }
    turns
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_worker_gets_its_share_of_slots_on_two_threads() {
    let client = client_of(slots(4.0, "", QUEUE_TIMEOUT_600S));
    let turns = run_workers_until(1200, 20, || {
        let client = client.clone();
        async move {
            let work = work(Duration::from_millis(1));
            client
                .guard(HERE, params(), work)
                .await
                .expect("the flow is accepted in time");
        }
    })
    .await;
    assert_fair(&turns, "workers on two threads");
}

async fn slow_ok(_: Request<Body>) -> Result<Response<Body>, std::convert::Infallible> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    Ok(Response::new(Body::empty()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_caller_of_a_layer_gets_its_share_of_slots() {
    let layer = ApertureLayer::new(client_of(slots(4.0, "", QUEUE_TIMEOUT_600S)), HERE)
        .check_timeout(Duration::from_secs(600));
    let service = layer.layer(service_fn(slow_ok));
    let turns = run_workers_until(1200, 20, || {
        let mut service = service.clone();
        async move {
            let request = Request::new(Body::empty());
            let ready = service.ready().await.expect("the service is ready");
            let response = ready.call(request).await.expect("the service responds");
            assert_eq!(response.status(), StatusCode::OK);
            let (_, body) = response.into_parts();
            let bytes = http_body_util::BodyExt::collect(body).await;
            assert!(bytes.is_ok());
        }
    })
    .await;
    assert_fair(&turns, "callers of a layer");
}

/// A flow of almost no priority, or of an almost infinite cost, is accepted, and priorities still
/// set the shares of later flows.
#[tokio::test(start_paused = true)]
async fn extreme_priorities_and_costs_do_not_disturb_the_shares_of_later_flows() {
    let extremes = [
        [("priority", "5e-324"), ("tokens", "1")],
        [("priority", "1e-300"), ("tokens", "1")],
        [("priority", "1e-9"), ("tokens", "1e9")],
        [("priority", "1"), ("tokens", "-1e300")],
    ];
    for labels in extremes {
        let client = client_of(slots(1.0, "", BY_PRIORITY));
        let wait = |labels: [(&'static str, &'static str); 2]| {
            let client = client.clone();
            let flow = async move { client.start_flow(HERE, params().labels(labels)).await };
            tokio::spawn(flow)
        };
        let held = client.start_flow(HERE, params()).await;
        // The extreme flow opens the queue, and the other one keeps it open afterwards.
        let extreme = wait(labels);
        tokio::task::yield_now().await;
        let other = wait([("team", "other"), ("priority", "1")]);
        tokio::task::yield_now().await;
        drop(held);
        let extreme = extreme.await.expect("the task does not panic");
        assert!(extreme.should_run());
        // Later flows begin at the virtual time that the extreme flow left.
        let teams = client.clone();
        let teams = tokio::spawn(async move {
            run_workers_for(20, &teams, 24, |worker| team(worker < 12).to_vec()).await
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(extreme);
        drop(other.await.expect("the task does not panic"));
        let turns = teams.await.expect("the task does not panic");
        let (gold, basic) = turns.split_at(12);
        let ratio = share(gold, 1) / share(basic, 1);
        assert!((2.7..3.3).contains(&ratio), "{labels:?}: {ratio} {turns:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flow_waits_for_a_slot_however_far_away_its_deadline_is() {
    let far = [
        Duration::MAX,
        Duration::from_secs(u64::MAX),
        Duration::from_secs(u64::MAX / 2),
        Duration::from_nanos(i64::MAX as u64),
        Duration::from_secs(1 << 33),
        Duration::from_secs(5),
    ];
    for scheduler in ["", ", decision_deadline_margin: 0s", QUEUE_TIMEOUT_600S] {
        for timeout in far {
            let client = client_of(slots(1.0, "", scheduler));
            let first = client.start_flow(HERE, FlowParams::new()).await;
            assert!(first.should_run());
            let waiting = client.clone();
            let waiting = tokio::spawn(async move {
                let params = FlowParams::new().check_timeout(timeout);
                waiting.start_flow(HERE, params).await.should_run()
            });
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(!waiting.is_finished(), "{timeout:?}: the flow waits");
            drop(first);
            assert!(
                waiting.await.expect("the task does not panic"),
                "{timeout:?}"
            );
        }
    }
}
