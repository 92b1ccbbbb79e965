//! A service that is asked for twice what it can do, with and without average-latency protection.
//!
//! `cargo run --example overload` simulates some minutes, asserts what it prints, and ends. Time is
//! Tokio's paused clock, so minutes pass as fast as the machine computes them; everything else is
//! real: the layer, the engine and its control loop, one request at a time. No Agent and no
//! monitoring system is needed: how slow the service is, the engine measures itself.
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
/// The service: so many requests at a time, each for so long. That makes 200 a second.
const WORKERS: usize = 4;
const WORK: Duration = Duration::from_millis(20);
/// Requests a second: as usual, and in the surge.
const USUAL: u64 = 120;
const SURGE: u64 = 400;
const SURGE_BEGINS: u64 = 120;
const SURGE_ENDS: u64 = 300;
const SECONDS: u64 = 480;
/// Nobody waits for longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// A row of the chart.
const ROW: u64 = 10;
const WIDTH: usize = 40;

type Answer = Response<Full<Bytes>>;

/// What happened in ten seconds.
#[derive(Clone, Copy, Default)]
struct Row {
    offered: u64,
    answered: u64,
    refused: u64,
    gave_up: u64,
    took: Duration,
}

impl Row {
    fn latency(&self) -> Duration {
        self.took / u32::try_from(self.answered.max(1)).unwrap_or(u32::MAX)
    }

    fn sum(rows: &[Self]) -> Self {
        rows.iter().fold(Self::default(), |sum, row| Self {
            offered: sum.offered + row.offered,
            answered: sum.answered + row.answered,
            refused: sum.refused + row.refused,
            gave_up: sum.gave_up + row.gave_up,
            took: sum.took + row.took,
        })
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "A service that can do {} requests a second gets {USUAL}, then {SURGE}, then {USUAL}.\n",
        WORKERS as u128 * 1000 / WORK.as_millis()
    );
    println!("without protection");
    let without = run(ApertureClient::disabled()).await;
    show(&without);
    println!("\nwith load-scheduling/average-latency");
    let engine = Engine::builder().policy_file(POLICY).build()?;
    let with = run(ApertureClient::embedded(engine)).await;
    show(&with);
    judge(&without, &with);
    Ok(())
}

/// The whole story with one way to decide.
async fn run(client: ApertureClient) -> Vec<Row> {
    let workers = Arc::new(Semaphore::new(WORKERS));
    let search = service_fn(move |_: Request<Full<Bytes>>| {
        let workers = Arc::clone(&workers);
        async move {
            let worker = workers.acquire().await;
            sleep(WORK).await;
            drop(worker);
            Ok::<_, Infallible>(Answer::new(Full::from("found")))
        }
    });
    let service = ServiceBuilder::new()
        .layer(
            ApertureLayer::new(client, "search")
                // Rather refused now than let in later.
                .check_timeout(Duration::from_millis(100)),
        )
        .service(search);

    let rows = Arc::new(Mutex::new(vec![Row::default(); (SECONDS / ROW) as usize]));
    for second in 0..SECONDS {
        let rate = match second {
            SURGE_BEGINS..SURGE_ENDS => SURGE,
            _ => USUAL,
        };
        let begun = Instant::now();
        for number in 0..rate {
            tokio::time::sleep_until(begun + Duration::from_secs(1) * number as u32 / rate as u32)
                .await;
            let (service, rows) = (service.clone(), Arc::clone(&rows));
            tokio::spawn(async move { ask(service, &rows, (second / ROW) as usize).await });
        }
        tokio::time::sleep_until(begun + Duration::from_secs(1)).await;
    }
    sleep(PATIENCE * 2).await;
    let rows = rows.lock().expect("nobody panics with it");
    rows.clone()
}

async fn ask<S, B>(service: S, rows: &Mutex<Vec<Row>>, row: usize)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body,
{
    let begun = Instant::now();
    let answer = timeout(PATIENCE, async {
        let Ok(answer) = service.oneshot(Request::new(Full::default())).await;
        let status = answer.status();
        let _ = answer.into_body().collect().await;
        status
    });
    let answer = answer.await;
    let mut rows = rows.lock().expect("nobody panics with it");
    let row = &mut rows[row];
    row.offered += 1;
    match answer {
        Err(_) => row.gave_up += 1,
        Ok(StatusCode::OK) => {
            row.answered += 1;
            row.took += begun.elapsed();
        }
        Ok(_) => row.refused += 1,
    }
}

fn show(rows: &[Row]) {
    println!(
        "    s  offered  answered  refused  gave up   latency  # answered - refused x gave up"
    );
    for (at, row) in (0..).zip(rows) {
        println!(
            "{:>5}  {:>7}  {:>8}  {:>7}  {:>7}  {:>5} ms  {}",
            at * ROW,
            row.offered,
            row.answered,
            row.refused,
            row.gave_up,
            row.latency().as_millis(),
            bar(row)
        );
    }
}

fn bar(row: &Row) -> String {
    let columns =
        |count: u64| (count as f64 / (SURGE * ROW) as f64 * WIDTH as f64).round() as usize;
    let part = |sign: &str, count| sign.repeat(columns(count));
    part("#", row.answered) + &part("-", row.refused) + &part("x", row.gave_up)
}

fn judge(without: &[Row], with: &[Row]) {
    let rows = |seconds: std::ops::Range<u64>| {
        (seconds.start / ROW) as usize..(seconds.end / ROW) as usize
    };
    let before = Row::sum(&with[rows(0..SURGE_BEGINS)]);
    assert_eq!(
        before.refused, 0,
        "nobody is refused as long as all is well"
    );

    // The loop hears of the surge within some seconds; all of it counts from its first minute on.
    let surge = rows(SURGE_BEGINS + 60..SURGE_ENDS);
    let (bare, protected) = (Row::sum(&without[surge.clone()]), Row::sum(&with[surge]));
    assert!(protected.refused > 0, "load is shed in the surge");
    assert!(
        protected.answered > 5 * bare.answered.max(1),
        "and many more are answered: {} instead of {}",
        protected.answered,
        bare.answered
    );
    assert!(
        protected.gave_up * 5 < bare.gave_up,
        "few wait in vain: {} instead of {}",
        protected.gave_up,
        bare.gave_up
    );

    let after = Row::sum(&with[rows(SECONDS - 60..SECONDS)]);
    assert_eq!(
        after.refused, 0,
        "when it is over everybody is let in again"
    );
    println!(
        "\nIn the surge {} requests are answered, in {:?} on average, instead of {}; {} wait in \
         vain instead of {}.",
        protected.answered,
        protected.latency(),
        bare.answered,
        protected.gave_up,
        bare.gave_up
    );
}
