//! What the fake Agent knows, and the services it offers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use tonic::{Request, Response, Status};
use tower_aperture::pb::check::flow_control_service_server::FlowControlService;
use tower_aperture::pb::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheLookupRequest, CacheLookupResponse,
    CacheLookupStatus, CacheUpsertRequest, CacheUpsertResponse, CheckRequest, CheckResponse,
    FlowEndRequest, FlowEndResponse, KeyDeleteResponse, KeyLookupResponse, KeyUpsertResponse,
    TokenReturnStatus, cache_delete_response, cache_lookup_response, cache_upsert_response,
};
use tower_aperture::pb::checkhttp::{CheckHttpRequest, CheckHttpResponse};
use tower_aperture::pb::trace_collector::trace_service_server::TraceService;
use tower_aperture::pb::trace_collector::{ExportTraceServiceRequest, ExportTraceServiceResponse};

use super::{Call, Reply, answer, lock};

pub(super) type Script<Req, Res> = Mutex<Arc<dyn Fn(&Req) -> Reply<Res> + Send + Sync>>;

pub(super) struct State {
    pub(super) on_check: Script<CheckRequest, CheckResponse>,
    pub(super) on_check_http: Script<CheckHttpRequest, CheckHttpResponse>,
    pub(super) on_flow_end: Script<FlowEndRequest, FlowEndResponse>,
    pub(super) on_export: Script<ExportTraceServiceRequest, ExportTraceServiceResponse>,
    pub(super) calls: Mutex<Vec<Call>>,
    pub(super) checks: Mutex<Vec<CheckRequest>>,
    pub(super) http_checks: Mutex<Vec<CheckHttpRequest>>,
    pub(super) flow_ends: Mutex<Vec<FlowEndRequest>>,
    pub(super) exports: Mutex<Vec<ExportTraceServiceRequest>>,
    /// Request ids that were granted and have not come back.
    pub(super) tokens: Arc<Mutex<HashSet<String>>>,
    pub(super) cache: Mutex<HashMap<(String, String), bytes::Bytes>>,
    pub(super) upserts: Mutex<Vec<CacheUpsertRequest>>,
    /// What upserts are answered with instead of being done.
    pub(super) upsert_answer: Mutex<Option<CacheUpsertResponse>>,
    pub(super) on_delete: Script<CacheDeleteRequest, ()>,
}

pub(super) fn script<Req, Res>(
    script: impl Fn(&Req) -> Reply<Res> + Send + Sync + 'static,
) -> Script<Req, Res> {
    Mutex::new(Arc::new(script))
}

impl State {
    pub(super) fn record(&self, request: &http::Request<tonic::body::Body>) {
        let header = |name| {
            let value = request.headers().get(name)?;
            Some(value.to_str().expect("visible ASCII").to_owned())
        };
        let connection = request
            .extensions()
            .get::<tonic::transport::server::TcpConnectInfo>();
        lock(&self.calls).push(Call {
            path: request.uri().path().to_owned(),
            api_key: header("x-api-key"),
            timeout: header("grpc-timeout"),
            encoding: header("grpc-encoding"),
            peer: connection.and_then(tonic::transport::server::TcpConnectInfo::remote_addr),
        });
    }

    pub(super) async fn play<Req, Res>(
        script: &Script<Req, Res>,
        request: &Req,
        decided: impl FnOnce(&Res),
    ) -> Result<Response<Res>, Status> {
        let script = Arc::clone(&*lock(script));
        match script(request) {
            Reply::Now(answer) => {
                decided(&answer);
                Ok(Response::new(answer))
            }
            Reply::After(delay, answer) => {
                decided(&answer);
                tokio::time::sleep(delay).await;
                Ok(Response::new(answer))
            }
            Reply::When(gate, answer) => {
                decided(&answer);
                gate.passed().await;
                Ok(Response::new(answer))
            }
            Reply::Status(status) => Err(status),
            Reply::Hang => std::future::pending().await,
        }
    }

    fn look_up(&self, request: &CacheLookupRequest) -> CacheLookupResponse {
        let cache = lock(&self.cache);
        let look = |scope: &str, key: &str| match cache.get(&(scope.to_owned(), key.to_owned())) {
            Some(value) => KeyLookupResponse {
                value: value.clone(),
                ..KeyLookupResponse::default()
            },
            None => KeyLookupResponse {
                lookup_status: CacheLookupStatus::Miss as i32,
                ..KeyLookupResponse::default()
            },
        };
        CacheLookupResponse {
            result_cache_response: (!request.result_cache_key.is_empty())
                .then(|| look(&request.control_point, &request.result_cache_key)),
            global_cache_responses: request
                .global_cache_keys
                .iter()
                .map(|key| cache_lookup_response::GlobalCacheResponsesEntry {
                    key: key.clone(),
                    value: Some(look("", key)),
                })
                .collect(),
        }
    }
}

#[tonic::async_trait]
impl FlowControlService for State {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let request = request.into_inner();
        lock(&self.checks).push(request.clone());
        let mut answer = Self::play(&self.on_check, &request, |answer| {
            lock(&self.tokens).extend(answer::request_ids(answer));
        })
        .await?;
        if let Some(lookup) = &request.cache_lookup_request
            && answer.get_ref().cache_lookup_response.is_none()
        {
            let lookup = CacheLookupRequest {
                control_point: request.control_point.clone(),
                ..lookup.clone()
            };
            answer.get_mut().cache_lookup_response = Some(self.look_up(&lookup));
        }
        Ok(answer)
    }

    async fn flow_end(
        &self,
        request: Request<FlowEndRequest>,
    ) -> Result<Response<FlowEndResponse>, Status> {
        let request = request.into_inner();
        lock(&self.flow_ends).push(request.clone());
        Self::play(&self.on_flow_end, &request, |_| ()).await
    }

    async fn cache_lookup(
        &self,
        request: Request<CacheLookupRequest>,
    ) -> Result<Response<CacheLookupResponse>, Status> {
        Ok(Response::new(self.look_up(request.get_ref())))
    }

    async fn cache_upsert(
        &self,
        request: Request<CacheUpsertRequest>,
    ) -> Result<Response<CacheUpsertResponse>, Status> {
        let request = request.into_inner();
        lock(&self.upserts).push(request.clone());
        if let Some(answer) = &*lock(&self.upsert_answer) {
            return Ok(Response::new(answer.clone()));
        }
        let mut cache = lock(&self.cache);
        let mut answer = CacheUpsertResponse::default();
        if let Some(entry) = request.result_cache_entry {
            cache.insert((request.control_point, entry.key), entry.value);
            answer.result_cache_response = Some(KeyUpsertResponse::default());
        }
        for (key, entry) in request.global_cache_entries {
            cache.insert((String::new(), key.clone()), entry.value);
            let done = KeyUpsertResponse::default();
            let entry = cache_upsert_response::GlobalCacheResponsesEntry {
                key,
                value: Some(done),
            };
            answer.global_cache_responses.push(entry);
        }
        Ok(Response::new(answer))
    }

    async fn cache_delete(
        &self,
        request: Request<CacheDeleteRequest>,
    ) -> Result<Response<CacheDeleteResponse>, Status> {
        let request = request.into_inner();
        Self::play(&self.on_delete, &request, |()| ()).await?;
        let mut cache = lock(&self.cache);
        let mut answer = CacheDeleteResponse::default();
        if !request.result_cache_key.is_empty() {
            cache.remove(&(request.control_point, request.result_cache_key));
            answer.result_cache_response = Some(KeyDeleteResponse::default());
        }
        for key in request.global_cache_keys {
            cache.remove(&(String::new(), key.clone()));
            let done = KeyDeleteResponse::default();
            let entry = cache_delete_response::GlobalCacheResponsesEntry {
                key,
                value: Some(done),
            };
            answer.global_cache_responses.push(entry);
        }
        Ok(Response::new(answer))
    }
}

#[tonic::async_trait]
impl TraceService for State {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let request = request.into_inner();
        lock(&self.exports).push(request.clone());
        Self::play(&self.on_export, &request, |_| ()).await
    }
}

pub(super) fn returned(
    request: &FlowEndRequest,
    tokens: &Mutex<HashSet<String>>,
) -> FlowEndResponse {
    let mut tokens = lock(tokens);
    let statuses = request.inflight_requests.iter().map(|reference| {
        let returned = tokens.remove(&reference.request_id);
        TokenReturnStatus {
            inflight_request_ref: Some(reference.clone()),
            returned,
            error: if returned {
                String::new()
            } else {
                "request not found".to_owned()
            },
        }
    });
    FlowEndResponse {
        token_return_statuses: statuses.collect(),
    }
}
