//! Workers that come again and again share what they queue for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response, StatusCode};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::engine::Engine;
use tower_aperture::{ApertureClient, ApertureLayer, FlowParams};

use crate::queues::{policy_of, quota, slots};
use crate::support::HERE;

const PATIENT: &str = ", default_workload_parameters: {queue_timeout: 600s}";

/// By priority, if a worker has one.
const BY_PRIORITY: &str =
    ", workload_label_key: team, default_workload_parameters: {queue_timeout: 600s}";

fn client_of(component: String) -> ApertureClient {
    let engine = Engine::builder()
        .policy_text("test.yaml", policy_of(&[component]))
        .build();
    ApertureClient::embedded(engine.expect("the policy is right"))
}

fn params() -> FlowParams<'static> {
    FlowParams::new().check_timeout(Duration::from_secs(600))
}

/// Takes so long from when it is let in.
async fn work(time: Duration) {
    tokio::time::sleep(time).await;
}

/// How often each worker had its turn.
type Turns = Vec<usize>;

/// Workers that take turns under a guard for some seconds of paused time; each has the labels of its
/// number.
async fn loop_for(
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
                client.guard(HERE, params, work).await.expect("it waits");
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

fn alike(_: usize) -> Vec<(&'static str, &'static str)> {
    Vec::new()
}

fn share(turns: &[usize], all: usize) -> f64 {
    turns.iter().sum::<usize>() as f64 / all as f64
}

/// No worker has less than half of what there is for each.
fn assert_fair(turns: &[usize], what: &str) {
    let each = share(turns, turns.len());
    let fair = |turns: &usize| *turns as f64 >= each / 2.0;
    assert!(turns.iter().all(fair), "{what}: {turns:?}");
}

#[tokio::test(start_paused = true)]
async fn each_worker_gets_its_share_of_slots() {
    for (free, workers) in [(4, 5), (4, 8), (4, 12), (4, 20), (1, 7), (3, 64)] {
        let client = client_of(slots(f64::from(free), "", PATIENT));
        let turns = loop_for(20, &client, workers, alike).await;
        let (least, most) = (turns.iter().min(), turns.iter().max());
        let (least, most) = (least.expect("workers"), most.expect("workers"));
        assert!(most - least <= 2, "{free} for {workers}: {turns:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_worker_gets_its_share_of_tokens() {
    // More tokens than one a turn, and fewer.
    for (rate, workers) in [(50.0, 8), (100.0, 20), (300.0, 40)] {
        let client = client_of(quota(1.0, rate, PATIENT));
        let turns = loop_for(20, &client, workers, alike).await;
        assert_fair(&turns, &format!("{rate} a second for {workers}"));
    }
}

/// Gold weighs three times as much as basic.
fn team(gold: bool) -> [(&'static str, &'static str); 2] {
    match gold {
        true => [("team", "gold"), ("priority", "3")],
        false => [("team", "basic"), ("priority", "1")],
    }
}

#[tokio::test(start_paused = true)]
async fn priorities_are_shares_and_within_one_each_worker_has_its_own() {
    let components = [
        slots(1.0, "", BY_PRIORITY),
        slots(4.0, "", BY_PRIORITY),
        quota(1.0, 200.0, BY_PRIORITY),
    ];
    for component in components {
        for (gold, basic) in [(10, 10), (5, 15), (15, 5)] {
            let client = client_of(component.clone());
            let labels = move |worker| team(worker < gold).to_vec();
            let turns = loop_for(20, &client, gold + basic, labels).await;
            let (golden, basic) = turns.split_at(gold);
            let ratio = share(golden, 1) / share(basic, 1);
            assert!((2.7..3.3).contains(&ratio), "{ratio}: {turns:?}");
            assert_fair(golden, "gold");
            assert_fair(basic, "basic");
        }
    }
}

/// Takes turns until there were enough of them, on the threads of the runtime.
async fn loop_until<F>(enough: usize, workers: usize, turn: impl Fn() -> F) -> Turns
where
    F: Future<Output = ()> + Send + 'static,
{
    let done = Arc::new(AtomicUsize::new(0));
    let tasks = (0..workers).map(|_| {
        let done = Arc::clone(&done);
        let mut next = turn();
        let more: Vec<F> = (0..enough).map(|_| turn()).collect();
        tokio::spawn(async move {
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
    let client = client_of(slots(4.0, "", PATIENT));
    let turns = loop_until(1200, 20, || {
        let client = client.clone();
        async move {
            let work = work(Duration::from_millis(1));
            client.guard(HERE, params(), work).await.expect("it waits");
        }
    })
    .await;
    assert_fair(&turns, "on two threads");
}

async fn slow_ok(_: Request<Body>) -> Result<Response<Body>, std::convert::Infallible> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    Ok(Response::new(Body::empty()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_caller_of_a_layer_gets_its_share_of_slots() {
    let layer = ApertureLayer::new(client_of(slots(4.0, "", PATIENT)), HERE)
        .check_timeout(Duration::from_secs(600));
    let service = layer.layer(service_fn(slow_ok));
    let turns = loop_until(1200, 20, || {
        let mut service = service.clone();
        async move {
            let request = Request::new(Body::empty());
            let ready = service.ready().await.expect("ready");
            let response = ready.call(request).await.expect("an answer");
            assert_eq!(response.status(), StatusCode::OK);
            let (_, body) = response.into_parts();
            let bytes = http_body_util::BodyExt::collect(body).await;
            assert!(bytes.is_ok());
        }
    })
    .await;
    assert_fair(&turns, "of a layer");
}

/// A flow whose priority is next to nothing, or whose tokens are next to infinite, is served, and
/// the weights of the others hold after it.
#[tokio::test(start_paused = true)]
async fn endless_virtual_times_do_not_end_the_weights_of_others() {
    let odd = [
        [("priority", "5e-324"), ("tokens", "1")],
        [("priority", "1e-300"), ("tokens", "1")],
        [("priority", "1e-9"), ("tokens", "1e9")],
        [("priority", "1"), ("tokens", "-1e300")],
    ];
    for labels in odd {
        let client = client_of(slots(1.0, "", BY_PRIORITY));
        let wait = |labels: [(&'static str, &'static str); 2]| {
            let client = client.clone();
            let flow = async move { client.start_flow(HERE, params().labels(labels)).await };
            tokio::spawn(flow)
        };
        let held = client.start_flow(HERE, params()).await;
        // It opens the queue, which the other one keeps open when it was served.
        let endless = wait(labels);
        tokio::task::yield_now().await;
        let other = wait([("team", "other"), ("priority", "1")]);
        tokio::task::yield_now().await;
        drop(held);
        let endless = endless.await.expect("it does not panic");
        assert!(endless.should_run());
        // Those who come now begin at the virtual time that it left.
        let teams = client.clone();
        let teams = tokio::spawn(async move {
            loop_for(20, &teams, 24, |worker| team(worker < 12).to_vec()).await
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(endless);
        drop(other.await.expect("it does not panic"));
        let turns = teams.await.expect("it does not panic");
        let (gold, basic) = turns.split_at(12);
        let ratio = share(gold, 1) / share(basic, 1);
        assert!((2.7..3.3).contains(&ratio), "{labels:?}: {ratio} {turns:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_however_far_away_is_one_to_wait_for_a_slot_until() {
    let far = [
        Duration::MAX,
        Duration::from_secs(u64::MAX),
        Duration::from_secs(u64::MAX / 2),
        Duration::from_nanos(i64::MAX as u64),
        Duration::from_secs(1 << 33),
        Duration::from_secs(5),
    ];
    for scheduler in ["", ", decision_deadline_margin: 0s", PATIENT] {
        for left in far {
            let client = client_of(slots(1.0, "", scheduler));
            let first = client.start_flow(HERE, FlowParams::new()).await;
            assert!(first.should_run());
            let waiting = client.clone();
            let waiting = tokio::spawn(async move {
                let params = FlowParams::new().check_timeout(left);
                waiting.start_flow(HERE, params).await.should_run()
            });
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(!waiting.is_finished(), "{left:?}: it waits");
            drop(first);
            assert!(waiting.await.expect("it does not panic"), "{left:?}");
        }
    }
}
