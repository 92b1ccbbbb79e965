//! The memory of the program when ten thousand flows wait and their callers leave.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tonic::transport::Endpoint;
use tower_aperture::pb::check::CheckRequest;
use tower_aperture::pb::check::flow_control_service_client::FlowControlServiceClient;
use tower_aperture::{FlowDecision, FlowParams, FlowStatus};

use crate::program::{Folder, LONG, Serving};
use crate::serving::{ONE_AT_A_TIME, client};

const CONNECTIONS: usize = 10;
const CALLS_EACH: usize = 1000;

/// Starts callers that check all at once. Shutting down the returned runtime closes their
/// connections.
fn start_callers(address: &str) -> Runtime {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    for _ in 0..CONNECTIONS {
        let address = format!("http://{address}");
        runtime.spawn(async move {
            let endpoint = Endpoint::from_shared(address).expect("an address");
            let channel = endpoint.connect().await.expect("the agent listens");
            for _ in 0..CALLS_EACH {
                let mut checks = FlowControlServiceClient::new(channel.clone());
                let flow = CheckRequest {
                    control_point: "render".into(),
                    ..CheckRequest::default()
                };
                tokio::spawn(async move { checks.check(flow).await });
            }
        });
    }
    runtime
}

/// Returns the number of waiting flows in the metrics of the program.
fn waiters(address: &str) -> usize {
    let mut stream = TcpStream::connect(address).expect("the agent listens");
    let call = "GET /metrics HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n";
    stream.write_all(call.as_bytes()).expect("the agent reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the agent answers");
    let mut lines = answer.lines();
    let line = lines.find(|line| line.starts_with("tower_aperture_agent_waiting{"));
    let number = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("{answer}"))
}

/// Waits until `flows` flows wait. The timeout starts anew whenever the number changes, because a
/// busy machine needs long for ten thousand.
fn until_waiting(address: &str, flows: usize) {
    let (mut last, mut since) = (waiters(address), Instant::now());
    while last != flows {
        thread::sleep(Duration::from_millis(20));
        let now = waiters(address);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        assert!(
            since.elapsed() < LONG,
            "{last} flows wait instead of {flows}"
        );
    }
}

/// Returns the resident memory of the program in kilobytes, if the system has `/proc`.
fn resident_kilobytes(serving: &Serving) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", serving.process())).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[test]
fn memory_does_not_grow_with_ten_thousand_waiters_that_leave() {
    let folder = Folder::new();
    let policies = folder.write("one.yaml", ONE_AT_A_TIME);
    let serving = Serving::start(&policies, &[]);
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let client = runtime.block_on(async { client(&serving) });
    let flow = |params| runtime.block_on(client.start_flow("render", params));
    let holder = flow(FlowParams::new());
    assert_eq!(holder.decision(), FlowDecision::Accepted);

    let mut first = None;
    for round in 0..3 {
        let callers = start_callers(&serving.address);
        until_waiting(&serving.address, CONNECTIONS * CALLS_EACH);
        callers.shutdown_background();
        until_waiting(&serving.address, 0);
        let now = resident_kilobytes(&serving);
        if let (Some(first), Some(now)) = (first, now) {
            // If each ten thousand leaked memory, later rounds would use much more than the first.
            assert!(
                now < first * 3 / 2,
                "{first} kB at first, {now} kB in round {round}"
            );
        }
        first = first.or(now);
    }

    runtime.block_on(holder.end());
    let next = flow(FlowParams::new());
    assert_eq!(
        next.decision(),
        FlowDecision::Accepted,
        "{:?}",
        next.error()
    );
    next.finish(FlowStatus::Ok);
    runtime.block_on(client.shutdown(Duration::from_secs(60)));
}
