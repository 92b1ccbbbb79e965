//! A fake Agent that validates an application as Aperture's SDK conformance tool does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tower_aperture::pb::check::check_response::{DecisionType, RejectReason};
use tower_aperture::pb::check::flow_control_service_server::{
    FlowControlService, FlowControlServiceServer,
};
use tower_aperture::pb::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheLookupRequest, CacheLookupResponse,
    CacheUpsertRequest, CacheUpsertResponse, CheckRequest, CheckResponse, FlowEndRequest,
    FlowEndResponse,
};
use tower_aperture::pb::common::any_value::Value;
use tower_aperture::pb::trace::Span;
use tower_aperture::pb::trace_collector::trace_service_server::{TraceService, TraceServiceServer};
use tower_aperture::pb::trace_collector::{ExportTraceServiceRequest, ExportTraceServiceResponse};

/// The observations so far.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) checks: usize,
    pub(crate) valid_spans: usize,
    pub(crate) faults: Vec<String>,
    remaining_rejects: usize,
}

/// A fake Agent that rejects the first few eligible flows and validates every span.
#[derive(Clone)]
pub(crate) struct Validator(Arc<Mutex<Record>>);

impl Validator {
    pub(crate) fn new(rejects: usize) -> Self {
        Self(Arc::new(Mutex::new(Record {
            remaining_rejects: rejects,
            ..Record::default()
        })))
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().expect("no panic while the record is locked")
    }

    /// Serves until [`Serving::stop`].
    pub(crate) fn serve(&self, listener: TcpListener) -> Serving {
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let server = Server::builder()
            .add_service(FlowControlServiceServer::new(self.clone()))
            .add_service(TraceServiceServer::new(self.clone()))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
                let _ = stopped.await;
            });
        Serving {
            address,
            stop,
            task: tokio::spawn(server),
        }
    }

    fn decide(&self, request: &CheckRequest, services: Vec<String>) -> CheckResponse {
        let mut record = self.record();
        record.checks += 1;
        let target = request.labels.get("http.target");
        let eligible = target.is_none_or(|target| target.contains("super"));
        let reject = eligible && record.remaining_rejects > 0;
        if reject {
            record.remaining_rejects -= 1;
        }
        let (decision, reason) = if reject {
            (DecisionType::Rejected, RejectReason::RateLimited)
        } else {
            (DecisionType::Accepted, RejectReason::None)
        };
        let mut keys: Vec<_> = request.labels.keys().cloned().collect();
        keys.sort_unstable();
        CheckResponse {
            services,
            control_point: request.control_point.clone(),
            flow_label_keys: keys,
            decision_type: decision.into(),
            reject_reason: reason.into(),
            ..CheckResponse::default()
        }
    }
}

/// A running fake Agent.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Serving {
    /// Shuts down gracefully: running calls finish first.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let served = self.task.await.expect("the server does not panic");
        served.expect("the server stops without an error");
    }
}

#[tonic::async_trait]
impl FlowControlService for Validator {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let peer = request.remote_addr().map(|peer| peer.to_string());
        let answer = self.decide(request.get_ref(), peer.into_iter().collect());
        Ok(Response::new(answer))
    }

    async fn cache_lookup(
        &self,
        _: Request<CacheLookupRequest>,
    ) -> Result<Response<CacheLookupResponse>, Status> {
        Err(Status::unimplemented("method CacheLookup not implemented"))
    }

    async fn cache_upsert(
        &self,
        _: Request<CacheUpsertRequest>,
    ) -> Result<Response<CacheUpsertResponse>, Status> {
        Err(Status::unimplemented("method CacheUpsert not implemented"))
    }

    async fn cache_delete(
        &self,
        _: Request<CacheDeleteRequest>,
    ) -> Result<Response<CacheDeleteResponse>, Status> {
        Err(Status::unimplemented("method CacheDelete not implemented"))
    }

    async fn flow_end(
        &self,
        _: Request<FlowEndRequest>,
    ) -> Result<Response<FlowEndResponse>, Status> {
        Err(Status::unimplemented("method FlowEnd not implemented"))
    }
}

#[tonic::async_trait]
impl TraceService for Validator {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.get_ref().resource_spans.iter();
        let spans = spans.flat_map(|resource| &resource.scope_spans);
        for span in spans.flat_map(|scope| &scope.spans) {
            let mut record = self.record();
            match validate_span(span) {
                Ok(()) => record.valid_spans += 1,
                Err(fault) => {
                    record.faults.push(fault.clone());
                    return Err(Status::unknown(fault));
                }
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Validates a span; the error names all its faults.
fn validate_span(span: &Span) -> Result<(), String> {
    let find = |name: &str| {
        let found = span
            .attributes
            .iter()
            .find(|attribute| attribute.key == name);
        found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref())
    };
    let stamp = |name: &str| match find(name) {
        Some(Value::IntValue(stamp)) => *stamp,
        _ => 0,
    };
    let mut faults = Vec::new();

    if let Some(Value::StringValue(text)) = find("aperture.check_response")
        && let Some(fault) = find_check_response_fault(text)
    {
        faults.push(fault);
        faults.push("invalid aperture.check_response: %!w(<nil>)".to_owned());
    }
    let [start, end, _] = [
        "aperture.flow_start_timestamp",
        "aperture.flow_end_timestamp",
        "aperture.workload_start_timestamp",
    ]
    .map(|name| {
        let stamp = stamp(name);
        if stamp == 0 {
            faults.push(format!("invalid {name}"));
        }
        stamp
    });
    if start > end {
        faults.push("invalid aperture.flow_start_timestamp and aperture.flow_end_timestamp".into());
    }
    if let Some(Value::StringValue(status)) = find("aperture.flow.status")
        && !["OK", "Error", "Unset"].contains(&status.as_str())
    {
        faults.push("invalid aperture.flow.status".to_owned());
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults.join("; "))
    }
}

fn find_check_response_fault(text: &str) -> Option<String> {
    if text.starts_with('{') {
        let parsed = serde_json::from_str::<serde_json::Value>(text);
        return parsed.err().map(|error| error.to_string());
    }
    let bytes = match BASE64_STANDARD.decode(text) {
        Ok(bytes) => bytes,
        Err(base64::DecodeError::InvalidByte(at, _)) => {
            return Some(format!("illegal base64 data at input byte {at}"));
        }
        Err(error) => return Some(error.to_string()),
    };
    let decoded = CheckResponse::decode(bytes.as_slice());
    decoded.err().map(|error| error.to_string())
}
