//! Compares concurrency limits that find themselves with those of similar crates, in front of the
//! same simulated service.
//!
//! Run with `cargo bench --bench adaptive`; it takes about a minute and a half of real time, because
//! the other crates read the system's clock. It asserts nothing: timers and the scheduler of a busy
//! machine are part of the figures.
#![allow(clippy::print_stdout)]

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use little_loadshedder::{LoadShed, LoadShedResponse};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};
use tower::util::BoxCloneService;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_acc::{Algorithm, ConcurrencyLimit, Gradient2, Vegas};
use tower_aperture::policy::{self, AdaptiveConcurrency, Policy};
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

/// The service runs this many requests at a time, each for 15 to 25 ms: 800 a second.
const WORKERS: usize = 16;
const WORK_MILLIS: (u64, u64) = (15, 25);
/// Requests a second.
const OFFERED: u64 = 1200;
/// In the second phase half of the workers are gone.
const PHASES: [&str; 3] = ["all", "half", "all again"];
const PHASE: Duration = Duration::from_secs(5);
/// A response after this time is of no use.
const DEADLINE: Duration = Duration::from_millis(100);

type Requested = Request<Full<Bytes>>;
type Responded = Response<Full<Bytes>>;
/// Returns whether a request was served.
type Contender = BoxCloneService<Requested, bool, BoxError>;
type MakeContender = fn(&Workers) -> Contender;

/// The requests of a phase.
#[derive(Clone, Default)]
struct Phase {
    latencies: Vec<Duration>,
    rejected: u64,
}

impl Phase {
    fn goodput(&self) -> u64 {
        let useful = self
            .latencies
            .iter()
            .filter(|latency| **latency <= DEADLINE);
        useful.count() as u64 / PHASE.as_secs()
    }

    fn quantile(&self, quantile: f64) -> u128 {
        let mut latencies = self.latencies.clone();
        latencies.sort_unstable();
        let at = (latencies.len() as f64 * quantile) as usize;
        latencies.get(at).map_or(0, Duration::as_millis)
    }
}

/// The simulated service.
#[derive(Clone)]
struct Workers(Arc<Semaphore>);

impl Workers {
    fn service(
        &self,
    ) -> impl Service<Requested, Response = Responded, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static {
        let (workers, requests) = (Arc::clone(&self.0), Arc::new(AtomicU64::new(0)));
        service_fn(move |_: Requested| {
            let workers = Arc::clone(&workers);
            let request = requests.fetch_add(1, Ordering::Relaxed);
            let hash = request.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let (least, most) = WORK_MILLIS;
            let work = Duration::from_millis(least + hash % (most - least + 1));
            async move {
                let worker = workers.acquire().await;
                sleep(work).await;
                drop(worker);
                Ok(Response::new(Full::from("found")))
            }
        })
    }
}

fn aperture(workers: &Workers, settings: AdaptiveConcurrency) -> Contender {
    let limit = policy::ConcurrencyLimit::adaptive_by(settings);
    let policy = Policy::new("search").at("search").limit(limit);
    let engine = Engine::builder().policy(policy).build();
    let engine = engine.expect("a valid policy");
    let layer = ApertureLayer::new(ApertureClient::embedded(engine), "search");
    let service = layer.layer(workers.service());
    let is_served = |response: Result<Response<_>, Infallible>| {
        Ok::<_, BoxError>(response.is_ok_and(|response| response.status() == StatusCode::OK))
    };
    BoxCloneService::new(service.map_result(is_served))
}

/// `tower-acc` makes callers wait; Tower's `LoadShed` rejects them instead.
fn tower_acc(workers: &Workers, algorithm: impl Algorithm + Send + 'static) -> Contender {
    let service = ConcurrencyLimit::new(workers.service(), algorithm);
    let service = tower::load_shed::LoadShed::new(service);
    let is_served = |response: Result<Responded, BoxError>| Ok::<_, BoxError>(response.is_ok());
    BoxCloneService::new(service.map_result(is_served))
}

fn little_loadshedder(workers: &Workers) -> Contender {
    let target = Duration::from_millis(2 * (WORK_MILLIS.0 + WORK_MILLIS.1) / 2);
    let service = LoadShed::new(workers.service(), 0.01, target);
    let is_served = |response: Result<LoadShedResponse<Responded>, Infallible>| {
        Ok::<_, BoxError>(matches!(response, Ok(LoadShedResponse::Inner(_))))
    };
    BoxCloneService::new(service.map_result(is_served))
}

fn unlimited(workers: &Workers) -> Contender {
    let is_served = |response: Result<Responded, Infallible>| Ok::<_, BoxError>(response.is_ok());
    BoxCloneService::new(workers.service().map_result(is_served))
}

async fn run(make: impl Fn(&Workers) -> Contender) -> Vec<Phase> {
    let workers = Workers(Arc::new(Semaphore::new(WORKERS)));
    let contender = make(&workers);
    let phases = Arc::new(Mutex::new(vec![Phase::default(); PHASES.len()]));
    for at in 0..PHASES.len() {
        match at {
            1 => {
                let workers = Arc::clone(&workers.0);
                tokio::spawn(async move {
                    for _ in 0..WORKERS / 2 {
                        if let Ok(worker) = workers.acquire().await {
                            worker.forget();
                        }
                    }
                });
            }
            2 => workers.0.add_permits(WORKERS / 2),
            _ => {}
        }
        let start = Instant::now();
        let requests = OFFERED * PHASE.as_secs();
        for number in 0..requests {
            sleep_until(start + PHASE * number as u32 / requests as u32).await;
            tokio::spawn(send(contender.clone(), Arc::clone(&phases), at));
        }
        sleep_until(start + PHASE).await;
    }
    sleep(DEADLINE * 2).await;
    let phases = phases.lock().expect("no panic holds the lock");
    phases.clone()
}

async fn send(contender: Contender, phases: Arc<Mutex<Vec<Phase>>>, at: usize) {
    let start = Instant::now();
    let is_served = contender.oneshot(Request::new(Full::default())).await;
    let is_served = is_served.expect("every contender is always ready");
    let phase = &mut phases.lock().expect("no panic holds the lock")[at];
    match is_served {
        true => phase.latencies.push(start.elapsed()),
        false => phase.rejected += 1,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!(
        "{WORKERS} workers serve 800 requests a second, half of them 400; {OFFERED} are offered. \
         Goodput counts responses within {DEADLINE:?}."
    );
    println!(
        "{:<22}  {:<9}  {:>9}  {:>7}  {:>7}  {:>10}",
        "limit", "workers", "goodput/s", "p50", "p99", "rejected/s"
    );
    let contenders: [(&str, MakeContender); 6] = [
        ("none", unlimited),
        ("Aperture, gradient", |workers| {
            aperture(workers, AdaptiveConcurrency::gradient())
        }),
        ("Aperture, Vegas", |workers| {
            aperture(workers, AdaptiveConcurrency::vegas())
        }),
        ("tower-acc, Gradient2", |workers| {
            tower_acc(workers, Gradient2::default())
        }),
        ("tower-acc, Vegas", |workers| {
            tower_acc(workers, Vegas::default())
        }),
        ("little-loadshedder", little_loadshedder),
    ];
    for (name, make) in contenders {
        for (workers, phase) in PHASES.iter().zip(run(make).await) {
            println!(
                "{name:<22}  {workers:<9}  {:>9}  {:>4} ms  {:>4} ms  {:>10}",
                phase.goodput(),
                phase.quantile(0.5),
                phase.quantile(0.99),
                phase.rejected / PHASE.as_secs(),
            );
        }
    }
}
