//! A saturated service whose places go to gold, silver and bronze users by their priorities.
//!
//! `cargo run --example priorities` runs for a few seconds, asserts what it prints, and ends. No
//! Agent is needed: the policy is decided in process.
#![allow(clippy::print_stdout)]

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

const POLICY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/examples/policies/priorities.yaml"
);
/// The tiers, with their priorities in the policy.
const TIERS: [(&str, u64); 3] = [("gold", 60), ("silver", 30), ("bronze", 10)];
/// Users of each tier, who ask again as soon as they are answered.
const USERS: usize = 25;
const WORK: Duration = Duration::from_millis(3);
const RUNS: Duration = Duration::from_secs(4);
/// How far a share may be off.
const TOLERANCE: f64 = 0.03;
const WIDTH: usize = 50;

/// What became of a tier's requests.
#[derive(Default)]
struct Tally {
    served: AtomicU64,
    refused: AtomicU64,
    waited_micros: AtomicU64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let engine = Engine::builder().policy_file(POLICY).build()?;
    let service = ServiceBuilder::new()
        .layer(
            ApertureLayer::new(ApertureClient::embedded(engine), "render")
                .label_from_header("tier", "x-tier")
                // Longer than anybody has to wait.
                .check_timeout(Duration::from_secs(60)),
        )
        .service(service_fn(render));

    let until = Instant::now() + RUNS;
    let tallies: [Arc<Tally>; TIERS.len()] = Default::default();
    let mut users = Vec::new();
    for ((tier, _), tally) in TIERS.iter().zip(&tallies) {
        for _ in 0..USERS {
            let (service, tally) = (service.clone(), Arc::clone(tally));
            users.push(tokio::spawn(async move {
                ask_again_and_again(service, tier, &tally, until).await;
            }));
        }
    }
    for user in users {
        user.await?;
    }
    show(&tallies);
    Ok(())
}

async fn render(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    tokio::time::sleep(WORK).await;
    Ok(Response::new(Full::from("a picture")))
}

async fn ask_again_and_again<S, B>(service: S, tier: &str, tally: &Tally, until: Instant)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible> + Clone,
    B: http_body::Body,
{
    while Instant::now() < until {
        let request = Request::get("/").header("x-tier", tier);
        let request = request.body(Full::default()).expect("a sound request");
        let begun = Instant::now();
        let Ok(response) = service.clone().oneshot(request).await;
        let served = response.status() == StatusCode::OK;
        // The flow ends with the body; then somebody else has the place.
        let _ = response.into_body().collect().await;
        let waited = begun.elapsed().as_micros() as u64;
        let count = if served {
            &tally.served
        } else {
            &tally.refused
        };
        count.fetch_add(1, Ordering::Relaxed);
        tally.waited_micros.fetch_add(waited, Ordering::Relaxed);
    }
}

fn show(tallies: &[Arc<Tally>]) {
    let served = |tally: &Tally| tally.served.load(Ordering::Relaxed);
    let all: u64 = tallies.iter().map(|tally| served(tally)).sum();
    let priorities: u64 = TIERS.iter().map(|(_, priority)| priority).sum();

    println!("{USERS} users of each tier, four places, {WORK:?} of work, {RUNS:?}\n");
    println!("tier    priority  served  refused  mean wait  share  expected");
    for ((tier, priority), tally) in TIERS.iter().zip(tallies) {
        let refused = tally.refused.load(Ordering::Relaxed);
        let waited = tally.waited_micros.load(Ordering::Relaxed) as f64 / 1000.0;
        println!(
            "{tier:<7} {priority:>8}  {:>6}  {refused:>7}  {:>6.1} ms  {:>4.1}%  {:>7.1}%",
            served(tally),
            waited / (served(tally) + refused).max(1) as f64,
            100.0 * served(tally) as f64 / all as f64,
            100.0 * *priority as f64 / priorities as f64,
        );
    }
    println!("\nshares (| is the priority's)");
    for ((tier, priority), tally) in TIERS.iter().zip(tallies) {
        let share = served(tally) as f64 / all as f64;
        let expected = *priority as f64 / priorities as f64;
        println!("{tier:<7} {}", bar(share, expected));
    }

    for ((tier, priority), tally) in TIERS.iter().zip(tallies) {
        let share = served(tally) as f64 / all as f64;
        let expected = *priority as f64 / priorities as f64;
        assert!(
            (share - expected).abs() < TOLERANCE,
            "{tier}: a share of {share:.3} instead of {expected:.3}"
        );
        assert_eq!(
            tally.refused.load(Ordering::Relaxed),
            0,
            "{tier}: waits, and is served"
        );
    }
    println!("\nAs the policy says.");
}

fn bar(share: f64, expected: f64) -> String {
    let columns = |share: f64| (share * WIDTH as f64).round() as usize;
    let (filled, mark) = (columns(share), columns(expected));
    (0..WIDTH)
        .map(|column| match column {
            column if column + 1 == mark => '|',
            column if column < filled => '█',
            _ => '·',
        })
        .collect()
}
