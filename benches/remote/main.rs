//! Measures the cost of a flow that an Agent decides, compared with a bare unary call with the same
//! messages.
//!
//! Run with `cargo bench --bench remote`. The Agent is a process of its own, responds at once, and
//! is not measured. Rounds are interleaved and medians printed; compare the ratios. With
//! `-- --only NAME IN_FLIGHT CALLS` a single row runs once, for a profiler.
#![allow(clippy::print_stdout)]

mod agent;
mod calls;
#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tonic::transport::Endpoint;
use tower_aperture::ApertureClient;
use tower_aperture::pb::check::flow_control_service_client::FlowControlServiceClient;

use self::agent::AgentProcess;
use self::calls::{CallKind, RawClient};
use self::support::{CountingAllocator, allocations};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const ROUNDS: usize = 9;
const CALLS: usize = 5_000;

/// No round starts later than this after the first one of the same number in flight.
const MAX_TIME: Duration = Duration::from_secs(90);

/// The measurements of one round, the figures of calls per call.
struct RoundResult {
    /// The processor time of this process, in microseconds. NaN where it is not known.
    cpu: f64,
    allocations: f64,
    per_second: f64,
    p50: f64,
    p99: f64,
}

/// Runs `calls` calls, `in_flight` of them concurrently.
fn run(runtime: &Runtime, call_kind: &CallKind, in_flight: usize, calls: usize) -> RoundResult {
    runtime.block_on(async {
        let remaining = Arc::new(AtomicUsize::new(calls));
        let (cpu_before, allocated_before) = (cpu_seconds(), allocations());
        let started = Instant::now();
        let tasks = (0..in_flight).map(|_| {
            let (remaining, mut call_kind) = (Arc::clone(&remaining), call_kind.clone());
            tokio::spawn(async move {
                let mut took = Vec::with_capacity(calls / in_flight + 1);
                while remaining
                    .fetch_update(Relaxed, Relaxed, |remaining| remaining.checked_sub(1))
                    .is_ok()
                {
                    let started = Instant::now();
                    call_kind.call().await;
                    took.push(started.elapsed());
                }
                took
            })
        });
        let mut took = Vec::with_capacity(calls);
        for task in tasks.collect::<Vec<_>>() {
            took.extend(task.await.expect("no call fails"));
        }
        let seconds = started.elapsed().as_secs_f64();
        let cpu = cpu_seconds() - cpu_before;
        let allocated = allocations() - allocated_before;
        took.sort_unstable();
        let at = |share: f64| took[(took.len() as f64 * share) as usize].as_secs_f64() * 1e6;
        RoundResult {
            cpu: cpu * 1e6 / calls as f64,
            allocations: allocated as f64 / calls as f64,
            per_second: calls as f64 / seconds,
            p50: at(0.5),
            p99: at(0.99),
        }
    })
}

/// Returns the processor time that the threads of this process have used, as Linux counts it, or
/// NaN on other systems. A running thread is up to a tick of the scheduler behind.
fn cpu_seconds() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return f64::NAN;
    };
    let nanos = threads.flatten().filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    nanos.sum::<f64>() / 1e9
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the kinds of calls to compare, the bare call first.
fn call_kinds(runtime: &Runtime, address: SocketAddr) -> Vec<(&'static str, CallKind)> {
    // The bench measures the cost of responses, so a check must not time out.
    let timeout = Duration::from_secs(10);
    let client = |connections: usize, telemetry: bool, timeout: Duration| {
        ApertureClient::builder()
            .address(format!("http://{address}"))
            .connections(connections)
            .telemetry(telemetry)
            .check_timeout(timeout)
            .build()
            .expect("a valid address")
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a valid address");
    let bare = runtime
        .block_on(endpoint.connect())
        .expect("the agent listens");
    let raw = runtime.block_on(RawClient::connect(address));
    vec![
        (
            "bare unary call",
            CallKind::Bare(FlowControlServiceClient::new(bare)),
        ),
        ("h2 and prost, for scale", CallKind::Raw(raw)),
        (
            "flow, no telemetry",
            CallKind::Flow(client(1, false, timeout), "checkout"),
        ),
        (
            "flow and span",
            CallKind::Flow(client(1, true, timeout), "checkout"),
        ),
        (
            // The difference is the cost of a timer for each check.
            "flow and span, no timeout",
            CallKind::Flow(client(1, true, Duration::ZERO), "checkout"),
        ),
        (
            "flow and span, 4 connections",
            CallKind::Flow(client(4, true, timeout), "checkout"),
        ),
        (
            "flow, span and FlowEnd",
            CallKind::Flow(client(1, true, timeout), "slots"),
        ),
    ]
}

fn main() {
    if agent::serve_if_asked() {
        return;
    }
    let agent = AgentProcess::start();
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let call_kinds = call_kinds(&runtime, agent.address);
    let mut args = std::env::args().skip_while(|arg| arg != "--only").skip(1);
    if let (Some(name), Some(in_flight), Some(calls)) = (args.next(), args.next(), args.next()) {
        let number = |text: String| text.parse().expect("a number");
        let (_, call_kind) = call_kinds
            .iter()
            .find(|(other, _)| *other == name)
            .expect("the name of a row");
        run(&runtime, call_kind, number(in_flight), number(calls));
        return;
    }

    println!("\nOne flow from the check to its end, against a bare call in the same rounds\n");
    println!(
        "{:<10} {:<29} {:>7} {:>7} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8} {:>10}",
        "in flight",
        "",
        "allocs",
        "cpu us",
        "p50 us",
        "p99 us",
        "calls/s",
        "cpu",
        "p50",
        "p99",
        "throughput"
    );
    for in_flight in [1, 64, 512] {
        for (_, call_kind) in &call_kinds {
            run(&runtime, call_kind, in_flight, CALLS);
        }
        let mut rounds: Vec<Vec<RoundResult>> = call_kinds.iter().map(|_| Vec::new()).collect();
        let started = Instant::now();
        while rounds[0].len() < ROUNDS && started.elapsed() < MAX_TIME {
            for (index, (_, call_kind)) in call_kinds.iter().enumerate() {
                rounds[index].push(run(&runtime, call_kind, in_flight, CALLS));
            }
        }
        for (index, (name, _)) in call_kinds.iter().enumerate() {
            let median_of =
                |figure: fn(&RoundResult) -> f64| median(rounds[index].iter().map(figure));
            // Compared round by round, because the speed of the machine may change between rounds.
            let ratio = |figure: fn(&RoundResult) -> f64| {
                let pairs = rounds[index].iter().zip(&rounds[0]);
                median(pairs.map(|(ours, bare)| figure(ours) / figure(bare)))
            };
            println!(
                "{in_flight:<10} {name:<29} {:>7.1} {:>7.1} {:>9.1} {:>9.1} {:>9.0} {:>6.2} x {:>6.2} x {:>6.2} x {:>8.2} x",
                median_of(|figures| figures.allocations),
                median_of(|figures| figures.cpu),
                median_of(|figures| figures.p50),
                median_of(|figures| figures.p99),
                median_of(|figures| figures.per_second),
                ratio(|figures| figures.cpu),
                ratio(|figures| figures.p50),
                ratio(|figures| figures.p99),
                ratio(|figures| figures.per_second),
            );
        }
    }
    for (name, call_kind) in &call_kinds {
        if let CallKind::Flow(client, _) = call_kind {
            runtime.block_on(client.shutdown(Duration::from_secs(5)));
            let stats = client.stats();
            assert_eq!(stats.unreachable, 0, "{name}: every call is answered");
            println!(
                "{name}: {} ends and {} spans delivered, {} and {} dropped",
                stats.ends_delivered, stats.spans_exported, stats.ends_dropped, stats.spans_dropped
            );
        }
    }
}
