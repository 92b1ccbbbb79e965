//! A saturated service whose slots are shared by gold, silver and bronze users by priority.
//!
//! `cargo run --example priorities` runs for a few seconds, asserts what it prints, and exits. It
//! needs no Agent: the engine decides in process.
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
/// The tiers and their priorities in the policy.
const TIERS: [(&str, u64); 3] = [("gold", 60), ("silver", 30), ("bronze", 10)];
/// The number of users of each tier. Each sends its next request after the previous response.
const USERS: usize = 25;
const WORK: Duration = Duration::from_millis(3);
const RUNS: Duration = Duration::from_secs(4);
/// The largest deviation of a share from its priority.
const TOLERANCE: f64 = 0.03;
const WIDTH: usize = 50;

/// The outcomes of one tier's requests.
#[derive(Default)]
struct Tally {
    served: AtomicU64,
    rejected: AtomicU64,
    waited_micros: AtomicU64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let engine = Engine::builder().policy_file(POLICY).build()?;
    let service = ServiceBuilder::new()
        .layer(
            ApertureLayer::new(ApertureClient::embedded(engine), "render")
                .label_from_header("tier", "x-tier")
                // Longer than any request waits.
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
                send_until(service, tier, &tally, until).await;
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

async fn send_until<S, B>(service: S, tier: &str, tally: &Tally, until: Instant)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible> + Clone,
    B: http_body::Body,
{
    while Instant::now() < until {
        let request = Request::get("/").header("x-tier", tier);
        let request = request.body(Full::default()).expect("a valid request");
        let start = Instant::now();
        let Ok(response) = service.clone().oneshot(request).await;
        let served = response.status() == StatusCode::OK;
        // The flow ends with the body, which frees the slot.
        let _ = response.into_body().collect().await;
        let waited = start.elapsed().as_micros() as u64;
        let count = if served {
            &tally.served
        } else {
            &tally.rejected
        };
        count.fetch_add(1, Ordering::Relaxed);
        tally.waited_micros.fetch_add(waited, Ordering::Relaxed);
    }
}

fn show(tallies: &[Arc<Tally>]) {
    let served = |tally: &Tally| tally.served.load(Ordering::Relaxed);
    let all: u64 = tallies.iter().map(|tally| served(tally)).sum();
    let priorities: u64 = TIERS.iter().map(|(_, priority)| priority).sum();

    println!("{USERS} users of each tier, four slots, {WORK:?} of work, {RUNS:?}\n");
    println!("tier    priority  served  rejected  mean wait  share  expected");
    for ((tier, priority), tally) in TIERS.iter().zip(tallies) {
        let rejected = tally.rejected.load(Ordering::Relaxed);
        let waited = tally.waited_micros.load(Ordering::Relaxed) as f64 / 1000.0;
        println!(
            "{tier:<7} {priority:>8}  {:>6}  {rejected:>8}  {:>6.1} ms  {:>4.1}%  {:>7.1}%",
            served(tally),
            waited / (served(tally) + rejected).max(1) as f64,
            100.0 * served(tally) as f64 / all as f64,
            100.0 * *priority as f64 / priorities as f64,
        );
    }
    println!("\nshares (| marks the share by priority)");
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
            tally.rejected.load(Ordering::Relaxed),
            0,
            "{tier}: no request is rejected"
        );
    }
    println!("\nThe shares match the policy.");
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
