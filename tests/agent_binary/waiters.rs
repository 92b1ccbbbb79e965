//! Ten thousand who wait, and are gone.

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
const EACH: usize = 1000;

/// Clients that all ask at once. They are gone, connections and all, when it is dropped.
fn crowd(address: &str) -> Runtime {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    for _ in 0..CONNECTIONS {
        let address = format!("http://{address}");
        runtime.spawn(async move {
            let endpoint = Endpoint::from_shared(address).expect("an address");
            let channel = endpoint.connect().await.expect("it listens");
            for _ in 0..EACH {
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

/// As its metrics have it.
fn waiters(address: &str) -> usize {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let call = "GET /metrics HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n";
    stream.write_all(call.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let mut lines = answer.lines();
    let line = lines.find(|line| line.starts_with("tower_aperture_agent_waiting{"));
    let number = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("{answer}"))
}

/// Waits until so many wait. A busy machine takes its time for ten thousand, so it may take long as
/// long as it goes on.
fn until_waiting(address: &str, flows: usize) {
    let (mut last, mut since) = (waiters(address), Instant::now());
    while last != flows {
        thread::sleep(Duration::from_millis(20));
        let now = waiters(address);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < LONG, "{last} wait, and not {flows}");
    }
}

/// Kilobytes of the machine's memory that it takes, where the machine tells.
fn resident(serving: &Serving) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", serving.process())).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[test]
fn ten_thousand_waiters_that_are_gone_leave_nothing_behind() {
    let folder = Folder::new();
    let policies = folder.write("one.yaml", ONE_AT_A_TIME);
    let serving = Serving::start(&policies, &[]);
    let asks = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let client = asks.block_on(async { client(&serving) });
    let flow = |params| asks.block_on(client.start_flow("render", params));
    let holder = flow(FlowParams::new());
    assert_eq!(holder.decision(), FlowDecision::Accepted);

    let mut first = None;
    for round in 0..3 {
        let crowd = crowd(&serving.address);
        until_waiting(&serving.address, CONNECTIONS * EACH);
        crowd.shutdown_background();
        until_waiting(&serving.address, 0);
        let now = resident(&serving);
        if let (Some(first), Some(now)) = (first, now) {
            // Had the first ten thousand left anything behind, so had the others.
            assert!(
                now < first * 3 / 2,
                "{first} kB at first, {now} kB in round {round}"
            );
        }
        first = first.or(now);
    }

    asks.block_on(holder.end());
    let next = flow(FlowParams::new());
    assert_eq!(
        next.decision(),
        FlowDecision::Accepted,
        "{:?}",
        next.error()
    );
    next.finish(FlowStatus::Ok);
    asks.block_on(client.shutdown(Duration::from_secs(60)));
}
