//! Measures the cost of a flow that an Agent decides, compared with a bare unary call with the same
//! messages.
//!
//! Run with `cargo bench --bench remote`. The server runs on a thread of its own in this process
//! and responds immediately. Rounds are interleaved and medians printed; compare the ratios.
#![allow(clippy::print_stdout)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tower_aperture::pb::check::flow_control_service_client::FlowControlServiceClient;
use tower_aperture::pb::check::flow_control_service_server::{
    FlowControlService, FlowControlServiceServer,
};
use tower_aperture::pb::check::limiter_decision::{
    ConcurrencyLimiterInfo, Details, RateLimiterInfo, TokensInfo,
};
use tower_aperture::pb::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheLookupRequest, CacheLookupResponse,
    CacheUpsertRequest, CacheUpsertResponse, CheckRequest, CheckResponse, FlowEndRequest,
    FlowEndResponse, LimiterDecision, TokenReturnStatus,
};
use tower_aperture::pb::trace_collector::trace_service_server::{TraceService, TraceServiceServer};
use tower_aperture::pb::trace_collector::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use tower_aperture::{ApertureClient, FlowParams, FlowStatus};

const ROUNDS: usize = 9;
const CALLS: usize = 5_000;

/// An Agent that accepts every flow; at the control point `slots` with a concurrency slot that has
/// to be returned.
struct AcceptingAgent;

#[tonic::async_trait]
impl FlowControlService for AcceptingAgent {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let request = request.into_inner();
        let tokens_info = Some(TokensInfo {
            remaining: 9.0,
            current: 1.0,
            consumed: 1.0,
        });
        let label = "user_id:42".to_owned();
        let details = if request.control_point == "slots" {
            Details::ConcurrencyLimiterInfo(ConcurrencyLimiterInfo {
                label,
                tokens_info,
                request_id: "5c2d8cc6-3b6f-4d0b-a7a5-2b6bd6a1f0aa".to_owned(),
            })
        } else {
            Details::RateLimiterInfo(RateLimiterInfo { label, tokens_info })
        };
        Ok(Response::new(CheckResponse {
            control_point: request.control_point,
            flow_label_keys: request.labels.keys().cloned().collect(),
            telemetry_flow_labels: request.labels,
            limiter_decisions: vec![LimiterDecision {
                policy_name: "per-user".to_owned(),
                policy_hash: "f2411c8f4171104c6ec348613d96e3c8".to_owned(),
                component_id: "root.0".to_owned(),
                details: Some(details),
                ..LimiterDecision::default()
            }],
            expect_end: request.expect_end,
            ..CheckResponse::default()
        }))
    }

    async fn flow_end(
        &self,
        request: Request<FlowEndRequest>,
    ) -> Result<Response<FlowEndResponse>, Status> {
        let refs = request.into_inner().inflight_requests.into_iter();
        Ok(Response::new(FlowEndResponse {
            token_return_statuses: refs
                .map(|reference| TokenReturnStatus {
                    inflight_request_ref: Some(reference),
                    returned: true,
                    error: String::new(),
                })
                .collect(),
        }))
    }

    async fn cache_lookup(
        &self,
        _: Request<CacheLookupRequest>,
    ) -> Result<Response<CacheLookupResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cache_upsert(
        &self,
        _: Request<CacheUpsertRequest>,
    ) -> Result<Response<CacheUpsertResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cache_delete(
        &self,
        _: Request<CacheDeleteRequest>,
    ) -> Result<Response<CacheDeleteResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl TraceService for AcceptingAgent {
    async fn export(
        &self,
        _: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn start_agent() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener
        .set_nonblocking(true)
        .expect("a socket can be non-blocking");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime starts").block_on(async {
            let listener = TcpListener::from_std(listener).expect("the listener is registered");
            // As Agents do; otherwise small responses wait for the acknowledgement of the previous
            // one.
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let server = Server::builder()
                .add_service(FlowControlServiceServer::new(AcceptingAgent))
                .add_service(TraceServiceServer::new(AcceptingAgent))
                .serve_with_incoming(incoming);
            server.await.expect("the server runs");
        });
    });
    address
}

/// A kind of call to measure.
#[derive(Clone)]
enum CallKind {
    Bare(FlowControlServiceClient<Channel>),
    Flow(ApertureClient, &'static str),
}

impl CallKind {
    async fn call(&mut self) {
        match self {
            Self::Bare(client) => {
                let request = CheckRequest {
                    control_point: "checkout".to_owned(),
                    labels: [
                        ("user_id".to_owned(), "42".to_owned()),
                        ("tier".to_owned(), "gold".to_owned()),
                    ]
                    .into(),
                    expect_end: true,
                    cache_lookup_request: Some(CacheLookupRequest::default()),
                    ..CheckRequest::default()
                };
                client.check(request).await.expect("the agent responds");
            }
            Self::Flow(client, control_point) => {
                let params = FlowParams::new()
                    .label("user_id", "42")
                    .label("tier", "gold");
                let flow = client.start_flow(control_point, params).await;
                assert!(flow.is_decided(), "{:?}", flow.error());
                flow.finish(FlowStatus::Ok);
            }
        }
    }
}

struct RoundResult {
    per_second: f64,
    p50: f64,
    p99: f64,
}

/// Runs `CALLS` calls, `in_flight` of them concurrently.
fn run(runtime: &Runtime, call_kind: &CallKind, in_flight: usize) -> RoundResult {
    runtime.block_on(async {
        let remaining = Arc::new(AtomicUsize::new(CALLS));
        let started = Instant::now();
        let tasks = (0..in_flight).map(|_| {
            let (remaining, mut call_kind) = (Arc::clone(&remaining), call_kind.clone());
            tokio::spawn(async move {
                let mut took = Vec::with_capacity(CALLS / in_flight + 1);
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
        let mut took = Vec::with_capacity(CALLS);
        for task in tasks.collect::<Vec<_>>() {
            took.extend(task.await.expect("no call fails"));
        }
        let seconds = started.elapsed().as_secs_f64();
        took.sort_unstable();
        let at = |share: f64| took[(took.len() as f64 * share) as usize].as_secs_f64() * 1e6;
        RoundResult {
            per_second: CALLS as f64 / seconds,
            p50: at(0.5),
            p99: at(0.99),
        }
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let address = start_agent();
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let client = |connections: usize, telemetry: bool| {
        ApertureClient::builder()
            .address(format!("http://{address}"))
            .connections(connections)
            .telemetry(telemetry)
            // The bench measures the cost of responses, so a check must not time out.
            .check_timeout(Duration::from_secs(10))
            .build()
            .expect("a valid address")
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a valid address");
    let bare = runtime
        .block_on(endpoint.connect())
        .expect("the agent listens");
    let call_kinds = [
        (
            "bare unary call",
            CallKind::Bare(FlowControlServiceClient::new(bare)),
        ),
        (
            "flow, no telemetry",
            CallKind::Flow(client(1, false), "checkout"),
        ),
        ("flow and span", CallKind::Flow(client(1, true), "checkout")),
        (
            "flow and span, 4 connections",
            CallKind::Flow(client(4, true), "checkout"),
        ),
        (
            "flow, span and FlowEnd",
            CallKind::Flow(client(1, true), "slots"),
        ),
    ];

    println!("\nOne flow from the check to its end, against a bare call in the same rounds\n");
    println!(
        "{:<10} {:<30} {:>10} {:>9} {:>9} {:>9} {:>11} {:>11}",
        "in flight", "", "calls/s", "p50 us", "p99 us", "p50", "p99", "throughput"
    );
    for in_flight in [1, 64, 512] {
        for (_, call_kind) in &call_kinds {
            run(&runtime, call_kind, in_flight);
        }
        let mut rounds: Vec<Vec<RoundResult>> = call_kinds.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for (index, (_, call_kind)) in call_kinds.iter().enumerate() {
                rounds[index].push(run(&runtime, call_kind, in_flight));
            }
        }
        for (index, (name, _)) in call_kinds.iter().enumerate() {
            let median_of = |figure: fn(&RoundResult) -> f64| {
                median(rounds[index].iter().map(figure).collect())
            };
            // Compared round by round, because the speed of the machine may change between rounds.
            let ratio = |figure: fn(&RoundResult) -> f64| {
                let pairs = rounds[index].iter().zip(&rounds[0]);
                median(
                    pairs
                        .map(|(ours, bare)| figure(ours) / figure(bare))
                        .collect(),
                )
            };
            println!(
                "{in_flight:<10} {name:<30} {:>10.0} {:>9.1} {:>9.1} {:>7.2} x {:>9.2} x {:>9.2} x",
                median_of(|figures| figures.per_second),
                median_of(|figures| figures.p50),
                median_of(|figures| figures.p99),
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
