//! An Agent that accepts every flow at once, in a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
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

/// The argument that makes this executable an Agent.
const SERVE: &str = "--serve";

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

/// Serves until the standard input ends, if this process was started as an Agent. Returns whether
/// it was.
pub(super) fn serve_if_asked() -> bool {
    if !std::env::args().any(|arg| arg == SERVE) {
        return false;
    }
    // The client has left when its end of the pipe is closed, however it ended.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime starts").block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = listener.local_addr();
        println!("{}", address.expect("a bound socket has an address"));
        // As Agents do; otherwise small responses wait for the acknowledgement of the previous one.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder()
            .add_service(FlowControlServiceServer::new(AcceptingAgent))
            .add_service(TraceServiceServer::new(AcceptingAgent))
            .serve_with_incoming(incoming);
        server.await.expect("the server runs");
    });
    true
}

/// The process of an Agent. It ends when this is dropped.
pub(super) struct AgentProcess {
    process: Child,
    pub(super) address: SocketAddr,
}

impl AgentProcess {
    pub(super) fn start() -> Self {
        let executable = std::env::current_exe().expect("this executable has a path");
        let mut process = Command::new(executable)
            .arg(SERVE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process starts");
        let stdout = process.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("the agent prints its address");
        let address = line.trim().parse().expect("an address");
        Self { process, address }
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        let _ = self.process.wait();
    }
}
