//! The gRPC health service: reports `SERVING` until shutdown begins.

use std::pin::Pin;

use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health as HealthService;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::Agent;

/// The agent as a whole, the names that an Agent uses for its services, and their actual names.
const NAMES: [&str; 6] = [
    "",
    "aperture.flowcontrol.v1.FlowControlService",
    "aperture.flowcontrol.v1.FlowControlServiceHTTP",
    "aperture.flowcontrol.check.v1.FlowControlService",
    "aperture.flowcontrol.checkhttp.v1.FlowControlServiceHTTP",
    "opentelemetry.proto.collector.trace.v1.TraceService",
];

/// Handles the methods of `grpc.health.v1.Health`.
pub(super) struct AgentHealth(pub(super) Agent);

fn response(shutting_down: bool) -> HealthCheckResponse {
    let status = if shutting_down {
        ServingStatus::NotServing
    } else {
        ServingStatus::Serving
    };
    HealthCheckResponse {
        status: status.into(),
    }
}

fn check_name(service: &str) -> Result<(), Status> {
    if NAMES.contains(&service) {
        return Ok(());
    }
    Err(Status::not_found("service not registered"))
}

#[tonic::async_trait]
impl HealthService for AgentHealth {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        check_name(&request.get_ref().service)?;
        Ok(Response::new(response(self.0.inner.drain.has_begun())))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        check_name(&request.get_ref().service)?;
        let changes = WatchStream::new(self.0.inner.drain.subscribe());
        Ok(Response::new(Box::pin(
            changes.map(|shutting_down| Ok(response(shutting_down))),
        )))
    }
}
