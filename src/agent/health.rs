//! gRPC's health service: serving until the end begins.

use std::pin::Pin;

use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health as HealthService;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::Agent;

/// The node, an Agent's names of its services, and the names that they really have.
const NAMES: [&str; 6] = [
    "",
    "aperture.flowcontrol.v1.FlowControlService",
    "aperture.flowcontrol.v1.FlowControlServiceHTTP",
    "aperture.flowcontrol.check.v1.FlowControlService",
    "aperture.flowcontrol.checkhttp.v1.FlowControlServiceHTTP",
    "opentelemetry.proto.collector.trace.v1.TraceService",
];

pub(super) struct Health(pub(super) Agent);

fn status(ending: bool) -> HealthCheckResponse {
    let status = if ending {
        ServingStatus::NotServing
    } else {
        ServingStatus::Serving
    };
    HealthCheckResponse {
        status: status.into(),
    }
}

fn known(service: &str) -> Result<(), Status> {
    if NAMES.contains(&service) {
        return Ok(());
    }
    Err(Status::not_found("service not registered"))
}

#[tonic::async_trait]
impl HealthService for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        known(&request.get_ref().service)?;
        Ok(Response::new(status(self.0.inner.drain.has_begun())))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        known(&request.get_ref().service)?;
        let changes = WatchStream::new(self.0.inner.drain.subscribe());
        Ok(Response::new(Box::pin(
            changes.map(|ending| Ok(status(ending))),
        )))
    }
}
