//! A service under twice the load that it can serve, with and without load scheduling by average
//! latency.
//!
//! `cargo run --example overload` simulates eight minutes, asserts what it prints, and exits. It
//! uses Tokio's paused clock, so the minutes pass as fast as the machine computes them. Everything
//! else is real: the layer, the engine, its control loop and each single request. It needs no Agent
//! and no monitoring system: the engine itself measures the latency of the service.
#![allow(clippy::print_stdout)]

use std::convert::Infallible;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

const POLICY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/examples/policies/overload.yaml"
);
/// The service runs this many requests at a time, each for [`WORK`]: 200 requests a second.
const WORKERS: usize = 4;
const WORK: Duration = Duration::from_millis(20);
/// Requests a second, normally and during the surge.
const USUAL: u64 = 120;
const SURGE: u64 = 400;
const SURGE_BEGINS: u64 = 120;
const SURGE_ENDS: u64 = 300;
const SECONDS: u64 = 480;
/// The time after which a client stops waiting.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(3);
/// The seconds in one row of the chart.
const ROW_SECONDS: u64 = 10;
const WIDTH: usize = 40;

type SearchResponse = Response<Full<Bytes>>;

/// The requests of one row of the chart.
#[derive(Clone, Copy, Default)]
struct Row {
    offered: u64,
    served: u64,
    rejected: u64,
    timed_out: u64,
    total_latency: Duration,
}

impl Row {
    fn latency(&self) -> Duration {
        self.total_latency / u32::try_from(self.served.max(1)).unwrap_or(u32::MAX)
    }

    fn sum(rows: &[Self]) -> Self {
        rows.iter().fold(Self::default(), |sum, row| Self {
            offered: sum.offered + row.offered,
            served: sum.served + row.served,
            rejected: sum.rejected + row.rejected,
            timed_out: sum.timed_out + row.timed_out,
            total_latency: sum.total_latency + row.total_latency,
        })
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "A service for {} requests a second gets {USUAL}, then {SURGE}, then {USUAL} a second.\n",
        WORKERS as u128 * 1000 / WORK.as_millis()
    );
    println!("without load scheduling");
    let without = run(ApertureClient::disabled()).await;
    show(&without);
    println!("\nwith load-scheduling/average-latency");
    let engine = Engine::builder().policy_file(POLICY).build()?;
    let with = run(ApertureClient::embedded(engine)).await;
    show(&with);
    assert_protection(&without, &with);
    Ok(())
}

/// Simulates the normal load, the surge and the recovery with one client.
async fn run(client: ApertureClient) -> Vec<Row> {
    let workers = Arc::new(Semaphore::new(WORKERS));
    let search = service_fn(move |_: Request<Full<Bytes>>| {
        let workers = Arc::clone(&workers);
        async move {
            let worker = workers.acquire().await;
            sleep(WORK).await;
            drop(worker);
            Ok::<_, Infallible>(SearchResponse::new(Full::from("found")))
        }
    });
    let service = ServiceBuilder::new()
        .layer(
            ApertureLayer::new(client, "search")
                // Rejects early instead of queueing for long.
                .check_timeout(Duration::from_millis(100)),
        )
        .service(search);

    let rows = Arc::new(Mutex::new(vec![
        Row::default();
        (SECONDS / ROW_SECONDS) as usize
    ]));
    for second in 0..SECONDS {
        let rate = match second {
            SURGE_BEGINS..SURGE_ENDS => SURGE,
            _ => USUAL,
        };
        let start = Instant::now();
        for number in 0..rate {
            tokio::time::sleep_until(start + Duration::from_secs(1) * number as u32 / rate as u32)
                .await;
            let (service, rows) = (service.clone(), Arc::clone(&rows));
            tokio::spawn(
                async move { send(service, &rows, (second / ROW_SECONDS) as usize).await },
            );
        }
        tokio::time::sleep_until(start + Duration::from_secs(1)).await;
    }
    sleep(CLIENT_TIMEOUT * 2).await;
    let rows = rows.lock().expect("no panic holds the lock");
    rows.clone()
}

async fn send<S, B>(service: S, rows: &Mutex<Vec<Row>>, row: usize)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body,
{
    let start = Instant::now();
    let status = timeout(CLIENT_TIMEOUT, async {
        let Ok(response) = service.oneshot(Request::new(Full::default())).await;
        let status = response.status();
        let _ = response.into_body().collect().await;
        status
    });
    let status = status.await;
    let mut rows = rows.lock().expect("no panic holds the lock");
    let row = &mut rows[row];
    row.offered += 1;
    match status {
        Err(_) => row.timed_out += 1,
        Ok(StatusCode::OK) => {
            row.served += 1;
            row.total_latency += start.elapsed();
        }
        Ok(_) => row.rejected += 1,
    }
}

fn show(rows: &[Row]) {
    println!(
        "    s  offered    served  rejected  timeout   latency  # served - rejected x timeout"
    );
    for (at, row) in (0..).zip(rows) {
        println!(
            "{:>5}  {:>7}  {:>8}  {:>8}  {:>7}  {:>5} ms  {}",
            at * ROW_SECONDS,
            row.offered,
            row.served,
            row.rejected,
            row.timed_out,
            row.latency().as_millis(),
            bar(row)
        );
    }
}

fn bar(row: &Row) -> String {
    let columns =
        |count: u64| (count as f64 / (SURGE * ROW_SECONDS) as f64 * WIDTH as f64).round() as usize;
    let part = |sign: &str, count| sign.repeat(columns(count));
    part("#", row.served) + &part("-", row.rejected) + &part("x", row.timed_out)
}

fn assert_protection(without: &[Row], with: &[Row]) {
    let rows = |seconds: std::ops::Range<u64>| {
        (seconds.start / ROW_SECONDS) as usize..(seconds.end / ROW_SECONDS) as usize
    };
    let before = Row::sum(&with[rows(0..SURGE_BEGINS)]);
    assert_eq!(
        before.rejected, 0,
        "no request is rejected under normal load"
    );

    // The control loop needs some seconds to react, so the first minute of the surge is not
    // counted.
    let surge = rows(SURGE_BEGINS + 60..SURGE_ENDS);
    let (bare, protected) = (Row::sum(&without[surge.clone()]), Row::sum(&with[surge]));
    assert!(protected.rejected > 0, "requests are rejected in the surge");
    assert!(
        protected.served > 5 * bare.served.max(1),
        "many more requests are served: {} instead of {}",
        protected.served,
        bare.served
    );
    assert!(
        protected.timed_out * 5 < bare.timed_out,
        "few requests time out: {} instead of {}",
        protected.timed_out,
        bare.timed_out
    );

    let after = Row::sum(&with[rows(SECONDS - 60..SECONDS)]);
    assert_eq!(
        after.rejected, 0,
        "no request is rejected after the recovery"
    );
    println!(
        "\nIn the surge {} requests are served, in {:?} on average, instead of {}; {} time out \
         instead of {}.",
        protected.served,
        protected.latency(),
        bare.served,
        protected.timed_out,
        bare.timed_out
    );
}
