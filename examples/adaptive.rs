//! A service whose capacity halves and returns, behind a concurrency limit that finds itself.
//!
//! `cargo run --example adaptive` simulates 80 seconds with each algorithm, asserts what it prints,
//! and exits. It uses Tokio's paused clock, so that time passes as fast as the machine computes and
//! each run prints the same. The layer, the engine and each request are real.
#![allow(clippy::print_stdout)]

use std::convert::Infallible;
use std::error::Error;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_aperture::policy::{AdaptiveConcurrency, ConcurrencyLimit, Policy};
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

/// The service runs this many requests at a time, each for 40 to 60 ms: 320 requests a second.
/// Further requests queue in it.
const WORKERS: usize = 16;
const WORK_MILLIS: Range<u64> = 40..61;
/// Half of the workers are gone in these seconds.
const HALVED: Range<u64> = 30..55;
const SECONDS: u64 = 80;
/// Requests a second: few at first, and then half as many again as all workers can serve.
const USUAL: u64 = 100;
const SURGE: u64 = 480;
const SURGE_BEGINS: u64 = 10;
/// The limit has this long to adapt to a change before latencies are asserted.
const SETTLING: u64 = 10;
/// The seconds in one row of the chart.
const ROW_SECONDS: u64 = 5;
const WIDTH: u64 = 40;

type SearchResponse = Response<Full<Bytes>>;

/// The requests of one second.
#[derive(Clone, Default)]
struct Second {
    latencies: Vec<Duration>,
    rejected: u64,
    limit: f64,
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "{WORKERS} workers serve 320 requests a second and get {SURGE}; from {} s to {} s half of \
         them are gone.",
        HALVED.start, HALVED.end
    );
    for (name, settings) in [
        ("gradient", AdaptiveConcurrency::gradient().tolerance(1.2)),
        ("Vegas", AdaptiveConcurrency::vegas()),
    ] {
        println!("\n{name}");
        let limit = ConcurrencyLimit::adaptive_by(settings);
        let policy = Policy::new("search").at("search").limit(limit);
        let engine = Engine::builder().policy(policy).build()?;
        let seconds = run(engine).await;
        show(&seconds);
        assert_protection(&seconds);
    }
    Ok(())
}

/// Simulates the service and its clients.
async fn run(engine: Engine) -> Vec<Second> {
    let workers = Arc::new(Semaphore::new(WORKERS));
    let service = {
        let (workers, requests) = (Arc::clone(&workers), Arc::new(AtomicU64::new(0)));
        service_fn(move |_: Request<Full<Bytes>>| {
            let workers = Arc::clone(&workers);
            let work = work(requests.fetch_add(1, Ordering::Relaxed));
            async move {
                let worker = workers.acquire().await;
                sleep(work).await;
                drop(worker);
                Ok::<_, Infallible>(SearchResponse::new(Full::from("found")))
            }
        })
    };
    let client = ApertureClient::embedded(engine.clone());
    let layer = ApertureLayer::new(client, "search");
    let service = ServiceBuilder::new().layer(layer).service(service);

    let seconds = Arc::new(Mutex::new(vec![Second::default(); SECONDS as usize]));
    for at in 0..SECONDS {
        if at == HALVED.start {
            let workers = Arc::clone(&workers);
            tokio::spawn(async move {
                // Workers leave when they have finished their requests.
                for _ in 0..WORKERS / 2 {
                    if let Ok(worker) = workers.acquire().await {
                        worker.forget();
                    }
                }
            });
        }
        if at == HALVED.end {
            workers.add_permits(WORKERS / 2);
        }
        let rate = if at < SURGE_BEGINS { USUAL } else { SURGE };
        let start = Instant::now();
        for number in 0..rate {
            sleep_until(start + Duration::from_secs(1) * number as u32 / rate as u32).await;
            tokio::spawn(send(service.clone(), Arc::clone(&seconds), at as usize));
        }
        sleep_until(start + Duration::from_secs(1)).await;
        let limit = engine.adaptive_limits()[0].mean;
        seconds.lock().expect("no panic holds the lock")[at as usize].limit = limit;
    }
    sleep(Duration::from_secs(5)).await;
    let seconds = seconds.lock().expect("no panic holds the lock");
    seconds.clone()
}

/// Returns how long the work of a request takes, the same in each run.
fn work(request: u64) -> Duration {
    // Knuth's multiplicative hash.
    let hash = request.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let span = WORK_MILLIS.end - WORK_MILLIS.start;
    Duration::from_millis(WORK_MILLIS.start + hash % span)
}

async fn send<S, B>(service: S, seconds: Arc<Mutex<Vec<Second>>>, at: usize)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body,
{
    let start = Instant::now();
    let Ok(response) = service.oneshot(Request::new(Full::default())).await;
    let status = response.status();
    let _ = response.into_body().collect().await;
    let second = &mut seconds.lock().expect("no panic holds the lock")[at];
    match status {
        StatusCode::OK => second.latencies.push(start.elapsed()),
        _ => second.rejected += 1,
    }
}

/// Returns a quantile of the latencies of some seconds.
fn quantile(seconds: &[Second], quantile: f64) -> Duration {
    let latencies = seconds.iter().flat_map(|second| second.latencies.iter());
    let mut latencies: Vec<Duration> = latencies.copied().collect();
    latencies.sort_unstable();
    let at = (latencies.len() as f64 * quantile) as usize;
    latencies.get(at).copied().unwrap_or_default()
}

fn served(seconds: &[Second]) -> u64 {
    let served = seconds.iter().map(|second| second.latencies.len() as u64);
    served.sum()
}

fn show(seconds: &[Second]) {
    println!("    s  limit     p50     p99  served/s  rejected/s");
    for (at, row) in (0..).zip(seconds.chunks(ROW_SECONDS as usize)) {
        let rejected: u64 = row.iter().map(|second| second.rejected).sum();
        let per_second = served(row) / ROW_SECONDS;
        let bar = (per_second * WIDTH).div_ceil(SURGE) as usize;
        println!(
            "{:>5}  {:>5}  {:>3} ms  {:>3} ms  {:>8}  {:>10}  {}",
            at * ROW_SECONDS,
            row.last().map_or(0.0, |second| second.limit),
            quantile(row, 0.5).as_millis(),
            quantile(row, 0.99).as_millis(),
            per_second,
            rejected / ROW_SECONDS,
            "#".repeat(bar),
        );
    }
}

fn assert_protection(seconds: &[Second]) {
    let of = |range: Range<u64>| &seconds[range.start as usize..range.end as usize];
    let unloaded = of(0..SURGE_BEGINS);
    assert_eq!(
        served(unloaded),
        USUAL * SURGE_BEGINS,
        "light load is served"
    );
    for (phase, capacity) in [
        (SURGE_BEGINS..HALVED.start, 320),
        (HALVED, 160),
        (HALVED.end..SECONDS, 320),
    ] {
        let settled = phase.start + SETTLING..phase.end;
        let length = settled.end - settled.start;
        let settled = of(settled);
        for share in [0.5, 0.99] {
            let (latency, usual) = (quantile(settled, share), quantile(unloaded, share));
            assert!(
                latency <= 2 * usual,
                "quantile {share}: {latency:?} is more than twice {usual:?}, from {phase:?}"
            );
        }
        let goodput = served(settled) / length;
        assert!(
            goodput * 10 >= capacity * 9,
            "the workers are busy: {goodput} of {capacity} requests a second, from {phase:?}"
        );
    }
}
