//! Measures the cost of an unreachable Agent per request, and the time until an Agent that has
//! returned is used again.
//!
//! Run with `cargo bench --bench outage`. A black hole accepts connections and never responds on
//! them. Requests go through the layer; their service responds immediately.
#![allow(clippy::print_stdout)]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request as GrpcRequest, Response as GrpcResponse, Status};
use tower_aperture::pb::check::flow_control_service_server::{
    FlowControlService, FlowControlServiceServer,
};
use tower_aperture::pb::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheLookupRequest, CacheLookupResponse,
    CacheUpsertRequest, CacheUpsertResponse, CheckRequest, CheckResponse, FlowEndRequest,
    FlowEndResponse,
};
use tower_aperture::{Aperture, ApertureClient, ApertureLayer, FlowDecision, FlowParams};
use tower_layer::Layer;
use tower_service::Service;

const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const CHECK_TIMEOUT: Duration = Duration::from_millis(200);

/// Long enough for several probes to start and fail.
const OUTAGE: Duration = Duration::from_secs(6);

const RETURNS: u32 = 12;

/// An Agent that accepts every flow.
struct AcceptingAgent;

#[tonic::async_trait]
impl FlowControlService for AcceptingAgent {
    async fn check(
        &self,
        call: GrpcRequest<CheckRequest>,
    ) -> Result<GrpcResponse<CheckResponse>, Status> {
        Ok(GrpcResponse::new(CheckResponse {
            control_point: call.into_inner().control_point,
            ..CheckResponse::default()
        }))
    }

    async fn flow_end(
        &self,
        _: GrpcRequest<FlowEndRequest>,
    ) -> Result<GrpcResponse<FlowEndResponse>, Status> {
        Ok(GrpcResponse::new(FlowEndResponse::default()))
    }

    async fn cache_lookup(
        &self,
        _: GrpcRequest<CacheLookupRequest>,
    ) -> Result<GrpcResponse<CacheLookupResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cache_upsert(
        &self,
        _: GrpcRequest<CacheUpsertRequest>,
    ) -> Result<GrpcResponse<CacheUpsertResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cache_delete(
        &self,
        _: GrpcRequest<CacheDeleteRequest>,
    ) -> Result<GrpcResponse<CacheDeleteResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Returns a listener that accepts connections and never responds, until it is served.
fn black_hole() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener
        .set_nonblocking(true)
        .expect("a socket can be non-blocking");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// Serves an Agent on a runtime of its own, until the runtime is dropped.
fn serve(listener: TcpListener) -> Runtime {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.spawn(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("it is registered");
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder().add_service(FlowControlServiceServer::new(AcceptingAgent));
        server
            .serve_with_incoming(incoming)
            .await
            .expect("the server runs");
    });
    runtime
}

#[derive(Clone)]
struct ImmediateService;

impl Service<Request<String>> for ImmediateService {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        ready(Ok(Response::new(String::new())))
    }
}

fn client(address: SocketAddr, failures: u32) -> ApertureClient {
    ApertureClient::builder()
        .address(format!("http://{address}"))
        .check_timeout(CHECK_TIMEOUT)
        .breaker(failures, PROBE_INTERVAL)
        .telemetry(false)
        .build()
        .expect("a valid address")
}

fn layer(client: &ApertureClient) -> Aperture<ImmediateService, ApertureClient> {
    let layer = ApertureLayer::new(client.clone(), "checkout");
    layer
        .label_from_header("user_id", "x-user-id")
        .layer(ImmediateService)
}

async fn request(service: &mut Aperture<ImmediateService, ApertureClient>) {
    let request = Request::builder().header("x-user-id", "42");
    let request = request.body(String::new()).expect("the parts are valid");
    let response = service.call(request).await.expect("it never fails");
    drop(response);
}

/// Sends requests from `tasks` concurrent tasks for `time`, and returns the sorted latencies.
fn run(runtime: &Runtime, client: &ApertureClient, tasks: usize, time: Duration) -> Vec<Duration> {
    runtime.block_on(async {
        let over = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..tasks)
            .map(|_| {
                let (over, mut service) = (Arc::clone(&over), layer(client));
                tokio::spawn(async move {
                    let mut took = Vec::new();
                    while !over.load(Relaxed) {
                        let started = Instant::now();
                        request(&mut service).await;
                        took.push(started.elapsed());
                        // Limits the rate of requests to that of a busy service.
                        if took.len() % 8 == 0 {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    }
                    took
                })
            })
            .collect();
        tokio::time::sleep(time).await;
        over.store(true, Relaxed);
        let mut took = Vec::new();
        for task in tasks {
            took.extend(task.await.expect("no request fails"));
        }
        took.sort_unstable();
        took
    })
}

fn show(name: &str, took: &[Duration]) {
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(
        "{name:<44} {:>9} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
        took.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
    );
}

/// Sends checks until the breaker has opened.
fn open_breaker(runtime: &Runtime, client: &ApertureClient) {
    runtime.block_on(async {
        while !client.agents()[0].given_up {
            drop(client.start_flow("checkout", FlowParams::new()).await);
        }
    });
}

/// Returns the time from the return of the Agent to the first accepted flow, with a check every
/// millisecond.
fn time_to_first_accept(runtime: &Runtime, client: &ApertureClient) -> Duration {
    let started = Instant::now();
    runtime.block_on(async {
        loop {
            let flow = client.start_flow("checkout", FlowParams::new()).await;
            if flow.decision() == FlowDecision::Accepted {
                return started.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

fn show_returns(name: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let intervals = |took: Duration| took.as_secs_f64() / PROBE_INTERVAL.as_secs_f64();
    println!(
        "{name:<44} {:>9} {:>10.3} {:>10.3}",
        took.len(),
        intervals(took[took.len() / 2]),
        intervals(took[took.len() - 1]),
    );
}

fn main() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime starts");

    println!("\nA request through the layer, us, with a check timeout of {CHECK_TIMEOUT:?}\n");
    println!(
        "{:<44} {:>9} {:>10} {:>10} {:>10} {:>10}",
        "", "requests", "p50", "p99", "p99.9", "max"
    );
    let (listener, address) = black_hole();
    let second = Duration::from_secs(1);
    let off = ApertureClient::disabled();
    show("client disabled", &run(&runtime, &off, 8, second));
    let without = client(address, 0);
    show(
        "black hole, no breaker",
        &run(&runtime, &without, 8, second),
    );
    let with = client(address, 5);
    open_breaker(&runtime, &with);
    for tasks in [1, 8, 64] {
        let name = format!("black hole, breaker open, {tasks} at once");
        show(&name, &run(&runtime, &with, tasks, OUTAGE));
    }
    let stats = with.stats();
    assert_eq!(
        stats.timeouts, 5,
        "only the checks before the breaker opened have waited"
    );
    println!(
        "{} checks were skipped, {} probes made",
        stats.checks_not_sent, stats.probes
    );
    drop(listener);

    println!("\nFrom the return of the Agent to the first accepted flow, in probe intervals\n");
    println!("{:<44} {:>9} {:>10} {:>10}", "", "returns", "median", "max");
    let (mut from_black_hole, mut from_refused) = (Vec::new(), Vec::new());
    for index in 0..RETURNS {
        // The Agent returns at a different moment between two probes each time.
        let phase = PROBE_INTERVAL * index / RETURNS;
        let (listener, address) = black_hole();
        let client = client(address, 5);
        open_breaker(&runtime, &client);
        run(&runtime, &client, 1, PROBE_INTERVAL + phase);
        let agent = serve(listener);
        from_black_hole.push(time_to_first_accept(&runtime, &client));

        agent.shutdown_timeout(Duration::from_secs(5));
        open_breaker(&runtime, &client);
        run(&runtime, &client, 1, PROBE_INTERVAL + phase);
        let listener = TcpListener::bind(address).expect("the port is free again");
        listener
            .set_nonblocking(true)
            .expect("a socket can be non-blocking");
        let agent = serve(listener);
        from_refused.push(time_to_first_accept(&runtime, &client));
        agent.shutdown_background();
    }
    show_returns("from a black hole", from_black_hole);
    show_returns("from refused connections", from_refused);
}
