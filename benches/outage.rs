//! What a dead Agent costs each request, and how soon one that is back is asked again.
//!
//! `cargo bench --bench outage`. Black-holed means that connections are accepted and nothing is
//! ever said on them. Requests go through the layer; their service answers at once.
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
use tonic::{Request as Call, Response as Answer, Status};
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

/// Long enough for several probes to be under way and to fail.
const OUTAGE: Duration = Duration::from_secs(6);

const RETURNS: u32 = 12;

/// Accepts every flow.
struct Agent;

#[tonic::async_trait]
impl FlowControlService for Agent {
    async fn check(&self, call: Call<CheckRequest>) -> Result<Answer<CheckResponse>, Status> {
        Ok(Answer::new(CheckResponse {
            control_point: call.into_inner().control_point,
            ..CheckResponse::default()
        }))
    }

    async fn flow_end(&self, _: Call<FlowEndRequest>) -> Result<Answer<FlowEndResponse>, Status> {
        Ok(Answer::new(FlowEndResponse::default()))
    }

    async fn cache_lookup(
        &self,
        _: Call<CacheLookupRequest>,
    ) -> Result<Answer<CacheLookupResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cache_upsert(
        &self,
        _: Call<CacheUpsertRequest>,
    ) -> Result<Answer<CacheUpsertResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cache_delete(
        &self,
        _: Call<CacheDeleteRequest>,
    ) -> Result<Answer<CacheDeleteResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A port that swallows what is sent to it until it is served.
fn black_hole() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.set_nonblocking(true).expect("a socket can be so");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// Serves until it is dropped, in a runtime of its own.
fn serve(listener: TcpListener) -> Runtime {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.spawn(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("it is registered");
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder().add_service(FlowControlServiceServer::new(Agent));
        server
            .serve_with_incoming(incoming)
            .await
            .expect("the server runs");
    });
    runtime
}

#[derive(Clone)]
struct Inner;

impl Service<Request<String>> for Inner {
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
        .expect("the address is right")
}

fn layer(client: &ApertureClient) -> Aperture<Inner, ApertureClient> {
    let layer = ApertureLayer::new(client.clone(), "checkout");
    layer.label_from_header("user_id", "x-user-id").layer(Inner)
}

async fn request(service: &mut Aperture<Inner, ApertureClient>) {
    let request = Request::builder().header("x-user-id", "42");
    let request = request.body(String::new()).expect("the parts are valid");
    let response = service.call(request).await.expect("it never fails");
    drop(response);
}

/// What each request took, with `tasks` of them at any time, for `time`.
fn run(runtime: &Runtime, client: &ApertureClient, tasks: usize, time: Duration) -> Vec<Duration> {
    runtime.block_on(async {
        let over = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..tasks)
            .map(|_| {
                let (over, mut service) = (Arc::clone(&over), layer(client));
                tokio::spawn(async move {
                    let mut took = Vec::new();
                    while !over.load(Relaxed) {
                        let begun = Instant::now();
                        request(&mut service).await;
                        took.push(begun.elapsed());
                        // Others have work, too: as many requests as a busy service has.
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

fn give_up(runtime: &Runtime, client: &ApertureClient) {
    runtime.block_on(async {
        while !client.agents()[0].given_up {
            drop(client.start_flow("checkout", FlowParams::new()).await);
        }
    });
}

/// From the Agent's return to the first flow it lets in, with a request every millisecond.
fn back(runtime: &Runtime, client: &ApertureClient) -> Duration {
    let begun = Instant::now();
    runtime.block_on(async {
        loop {
            let flow = client.start_flow("checkout", FlowParams::new()).await;
            if flow.decision() == FlowDecision::Accepted {
                return begun.elapsed();
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
    show("nobody is asked", &run(&runtime, &off, 8, second));
    let without = client(address, 0);
    show(
        "black hole, no breaker",
        &run(&runtime, &without, 8, second),
    );
    let with = client(address, 5);
    give_up(&runtime, &with);
    for tasks in [1, 8, 64] {
        let name = format!("black hole, given up, {tasks} at once");
        show(&name, &run(&runtime, &with, tasks, OUTAGE));
    }
    let stats = with.stats();
    assert_eq!(stats.timeouts, 5, "only these have waited");
    println!(
        "{} flows were not asked about, {} probes made",
        stats.checks_spared, stats.probes
    );
    drop(listener);

    println!("\nFrom the agent's return to the first flow it lets in, in probe intervals\n");
    println!("{:<44} {:>9} {:>10} {:>10}", "", "returns", "median", "max");
    let (mut from_hole, mut from_refusal) = (Vec::new(), Vec::new());
    for nth in 0..RETURNS {
        // At another moment between two probes each time.
        let phase = PROBE_INTERVAL * nth / RETURNS;
        let (listener, address) = black_hole();
        let client = client(address, 5);
        give_up(&runtime, &client);
        run(&runtime, &client, 1, PROBE_INTERVAL + phase);
        let agent = serve(listener);
        from_hole.push(back(&runtime, &client));

        agent.shutdown_timeout(Duration::from_secs(5));
        give_up(&runtime, &client);
        run(&runtime, &client, 1, PROBE_INTERVAL + phase);
        let listener = TcpListener::bind(address).expect("the port is free again");
        listener.set_nonblocking(true).expect("a socket can be so");
        let agent = serve(listener);
        from_refusal.push(back(&runtime, &client));
        agent.shutdown_background();
    }
    show_returns("from a black hole", from_hole);
    show_returns("from refused connections", from_refusal);
}
