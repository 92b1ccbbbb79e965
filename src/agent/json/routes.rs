//! The routes that are not gRPC: calls as JSON, status, health and metrics.

use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request as HttpRequest, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::{get, post, put};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use super::proto::{self, Named};
use crate::agent::budget::{Charge, Line};
use crate::agent::check::Checks;
use crate::agent::http::HttpChecks;
use crate::agent::metrics::Handler;
use crate::agent::{Agent, JSON_ELEMENT_BYTES, MAX_JSON_ELEMENTS, elements, status};
use crate::pb::check::flow_control_service_server::FlowControlService;
use crate::pb::check::{
    CacheDeleteRequest, CacheLookupRequest, CacheUpsertRequest, CheckRequest, FlowEndRequest,
};
use crate::pb::checkhttp::CheckHttpRequest;
use crate::pb::checkhttp::flow_control_service_http_server::FlowControlServiceHttp;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// All that is not gRPC.
pub(crate) type Json = Router;

/// What the router has a handler for: the names of handlers in metrics.
pub(crate) const PATHS: [&str; 9] = [
    "/v1/flowcontrol/checkhttp",
    "/v1/flowcontrol/check",
    "/v1/flowcontrol/flowend",
    "/v1/flowcontrol/cachelookup",
    "/v1/flowcontrol/cacheupsert",
    "/v1/flowcontrol/cachedelete",
    "/status",
    "/health",
    "/metrics",
];

/// Counts the request once it is answered.
async fn counted(State(agent): State<Agent>, request: HttpRequest, next: Next) -> HttpResponse {
    let began = Instant::now();
    let handler = Handler::of(request.method(), request.uri().path(), &PATHS);
    let response = next.run(request).await;
    let http = &agent.inner.metrics.http;
    http.answered(handler, response.status(), began);
    response
}

pub(crate) fn router(agent: &Agent) -> Json {
    Router::new()
        .route("/v1/flowcontrol/checkhttp", post(check_http))
        .route("/v1/flowcontrol/check", post(check))
        .route("/v1/flowcontrol/flowend", post(flow_end))
        .route("/v1/flowcontrol/cachelookup", post(cache_lookup))
        .route("/v1/flowcontrol/cacheupsert", post(cache_upsert))
        .route("/v1/flowcontrol/cachedelete", post(cache_delete))
        .route(
            "/v1/policies/{policy}/dynamic-config",
            put(set_dynamic_config),
        )
        .route("/status", get(status::status))
        .route("/health", get(status::health))
        .route("/metrics", get(status::metrics))
        .fallback(async || refused(&Status::not_found("there is nothing at this path")))
        .method_not_allowed_fallback(async || {
            let refusal = Status::unimplemented("this path does not answer this method");
            (StatusCode::METHOD_NOT_ALLOWED, refused(&refusal))
        })
        .layer(DefaultBodyLimit::max(agent.inner.limits.message_size))
        .layer(from_fn_with_state(agent.clone(), counted))
        .with_state(agent.clone())
}

/// A call's message, headers and charge.
struct Call<M>(Request<M>);

impl<M: Named, S: Send + Sync> FromRequest<S> for Call<M> {
    type Rejection = HttpResponse;

    async fn from_request(request: HttpRequest, state: &S) -> Result<Self, HttpResponse> {
        let headers: HeaderMap = request.headers().clone();
        let charge = Charge::of(request.extensions());
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|rejection| {
            let refusal = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => Status::resource_exhausted(rejection.body_text()),
                _ => Status::invalid_argument(rejection.body_text()),
            };
            refused(&refusal)
        })?;
        let elements = elements::count_json(&body);
        elements::bounded(elements, MAX_JSON_ELEMENTS).map_err(|status| refused(&status))?;
        let mut extensions = http::Extensions::new();
        if let Some(charge) = charge {
            let bytes = body.len() + elements * JSON_ELEMENT_BYTES;
            let taken = charge.take(Line::Decoded, bytes);
            taken.map_err(|status| refused(&status))?;
            extensions.insert(charge);
        }
        let message = proto::decode(&body)
            .map_err(|error| refused(&Status::invalid_argument(error.to_string())))?;
        let metadata = MetadataMap::from_headers(headers);
        Ok(Self(Request::from_parts(metadata, extensions, message)))
    }
}

/// Encodes an answer, which is charged before.
fn answer<M: Named>(charge: Option<&Charge>, result: Result<Response<M>, Status>) -> HttpResponse {
    let response = match result {
        Ok(response) => response,
        Err(status) => return refused(&status),
    };
    let (_, message, extensions) = response.into_parts();
    if let Some(charge) = charge
        && let Err(status) = charge.set(Line::Answers, message.encoded_len())
    {
        return refused(&status);
    }
    match proto::encode(&message) {
        Ok(text) => {
            let mut response = ([(header::CONTENT_TYPE, JSON)], text).into_response();
            response.extensions_mut().extend(extensions);
            response
        }
        Err(error) => refused(&Status::internal(error)),
    }
}

/// An error as an Agent's gateway has it.
pub(crate) fn refused(status: &Status) -> HttpResponse {
    let code = match status.code() {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    let body = serde_json::json!({
        "code": status.code() as i32,
        "message": status.message(),
        "details": [],
    });
    let body = Body::from(body.to_string());
    (code, [(header::CONTENT_TYPE, JSON)], body).into_response()
}

macro_rules! handlers {
    ($($name:ident: $service:ident.$method:ident($request:ty);)*) => {
        $(async fn $name(
            State(agent): State<Agent>,
            Call(request): Call<$request>,
        ) -> HttpResponse {
            let charge = Charge::of(request.extensions());
            answer(charge.as_ref(), $service(agent).$method(request).await)
        })*
    };
}

handlers! {
    check_http: HttpChecks.check_http(CheckHttpRequest);
    check: Checks.check(CheckRequest);
    flow_end: Checks.flow_end(FlowEndRequest);
    cache_lookup: Checks.cache_lookup(CacheLookupRequest);
    cache_upsert: Checks.cache_upsert(CacheUpsertRequest);
    cache_delete: Checks.cache_delete(CacheDeleteRequest);
}

/// Longer than any dynamic configuration: it names a few values.
const MAX_DYNAMIC: usize = 64 << 10;

/// Sets the dynamic configuration of a policy. The callers of other routes are let in where there
/// are no API keys; whoever may change policies has to show one.
async fn set_dynamic_config(
    State(agent): State<Agent>,
    Path(policy): Path<String>,
    body: Bytes,
) -> HttpResponse {
    if !agent.inner.keys.are_required() {
        let refusal = "this route needs an API key, and the agent has none: start it with \
                       --api-key-file";
        return refused(&Status::permission_denied(refusal));
    }
    if body.len() > MAX_DYNAMIC {
        let refusal = format!("a dynamic configuration takes {MAX_DYNAMIC} bytes at most");
        return refused(&Status::resource_exhausted(refusal));
    }
    let Ok(text) = String::from_utf8(body.into()) else {
        return refused(&Status::invalid_argument("the body is not UTF-8"));
    };
    let engine = agent.inner.engine.clone();
    let name = policy.clone();
    // Loading policies takes a while.
    let setting = move || engine.set_dynamic_config(&name, text);
    match tokio::task::spawn_blocking(setting).await {
        Ok(Ok(true)) => {
            log_event!(info, policy, "dynamic configuration was set");
            ([(header::CONTENT_TYPE, JSON)], "{}").into_response()
        }
        Ok(Ok(false)) => refused(&Status::not_found("no policy of this name is in force")),
        Ok(Err(error)) => refused(&Status::invalid_argument(error.to_string())),
        Err(_) => refused(&Status::internal("the policies could not be loaded")),
    }
}
