//! The HTTP routes that are not gRPC: calls as JSON, status, health and metrics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request as HttpRequest, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::{MethodRouter, get, post, put};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tonic::{Code, Status};

use super::proto::{self, NamedMessage};
use crate::call::{Call, CallResponse};
use crate::delivery::SlotGrant;
use crate::limits::{JSON_ELEMENT_BYTES, MAX_JSON_ELEMENTS};
use crate::memory_budget::{Charge, MemoryKind};
use crate::metrics::HandlerLabels;
use crate::{Agent, check, check_http, elements, status};
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The router of all HTTP routes that are not gRPC.
pub(crate) type JsonRouter = Router;

/// The paths with a handler, which are the names of handlers in metrics.
pub(crate) const PATHS: [&str; 11] = [
    "/v1/flowcontrol/checkhttp",
    "/v1/flowcontrol/check",
    "/v1/flowcontrol/flowend",
    "/v1/flowcontrol/cachelookup",
    "/v1/flowcontrol/cacheupsert",
    "/v1/flowcontrol/cachedelete",
    "/status",
    "/health",
    "/livez",
    "/readyz",
    "/metrics",
];

/// Counts a request once it has its response.
async fn count_request(
    State(agent): State<Agent>,
    request: HttpRequest,
    next: Next,
) -> HttpResponse {
    let began = Instant::now();
    let handler = HandlerLabels::of(request.method(), request.uri().path(), &PATHS);
    let response = next.run(request).await;
    let http = &agent.inner.metrics.http;
    http.record(handler, response.status(), began);
    response
}

/// Returns the router with all routes.
pub(crate) fn router(agent: &Agent) -> JsonRouter {
    Router::new()
        .route("/v1/flowcontrol/checkhttp", call(check_http::check_http))
        .route("/v1/flowcontrol/check", call(check::check))
        .route("/v1/flowcontrol/flowend", call(check::flow_end))
        .route("/v1/flowcontrol/cachelookup", call(check::cache_lookup))
        .route("/v1/flowcontrol/cacheupsert", call(check::cache_upsert))
        .route("/v1/flowcontrol/cachedelete", call(check::cache_delete))
        .route(
            "/v1/policies/{policy}/dynamic-config",
            put(set_dynamic_config),
        )
        .route("/status", get(status::status))
        .route("/health", get(status::health))
        .route("/livez", get(status::livez))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(status::metrics))
        .fallback(async || error_response(&Status::not_found("no route has this path")))
        .method_not_allowed_fallback(async || {
            let status = Status::unimplemented("this path does not support this method");
            (StatusCode::METHOD_NOT_ALLOWED, error_response(&status))
        })
        .layer(DefaultBodyLimit::max(agent.inner.limits.message_size))
        .layer(from_fn_with_state(agent.clone(), count_request))
        .with_state(agent.clone())
}

impl<M: NamedMessage, S: Send + Sync> FromRequest<S> for Call<M> {
    type Rejection = HttpResponse;

    async fn from_request(request: HttpRequest, state: &S) -> Result<Self, HttpResponse> {
        let headers: HeaderMap = request.headers().clone();
        let charge = Charge::of(request.extensions());
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|rejection| {
            let status = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => Status::resource_exhausted(rejection.body_text()),
                _ => Status::invalid_argument(rejection.body_text()),
            };
            error_response(&status)
        })?;
        let elements = elements::count_json(&body);
        elements::check_count(elements, MAX_JSON_ELEMENTS)
            .map_err(|status| error_response(&status))?;
        let bytes = body.len() + elements * JSON_ELEMENT_BYTES;
        let taken = charge.take(MemoryKind::Decoded, bytes);
        taken.map_err(|status| error_response(&status))?;
        let message = proto::decode(&body)
            .map_err(|error| error_response(&Status::invalid_argument(error.to_string())))?;
        Ok(Self {
            headers,
            message,
            charge,
        })
    }
}

/// Carries the slots that a response grants through the router, as an extension.
#[derive(Clone)]
struct GrantExtension(Arc<Mutex<SlotGrant>>);

/// Takes the slots that a response of the router grants.
pub(crate) fn take_grant<B>(response: &mut http::Response<B>) -> SlotGrant {
    let extension = response.extensions_mut().remove::<GrantExtension>();
    extension.map_or(SlotGrant::none(), |GrantExtension(grant)| {
        let mut grant = grant.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *grant, SlotGrant::none())
    })
}

/// Charges a response, then encodes it.
fn encode_response<M: NamedMessage>(
    charge: &Charge,
    result: Result<CallResponse<M>, Status>,
) -> HttpResponse {
    let encoded = result.and_then(|CallResponse { message, grant }| {
        charge.set(MemoryKind::Responses, message.encoded_len())?;
        let text = proto::encode(&message).map_err(Status::internal)?;
        Ok((text, grant))
    });
    match encoded {
        Ok((text, grant)) => {
            let mut response = ([(header::CONTENT_TYPE, JSON)], text).into_response();
            if grant.has_slots() {
                let grant = GrantExtension(Arc::new(Mutex::new(grant)));
                response.extensions_mut().insert(grant);
            }
            response
        }
        Err(status) => error_response(&status),
    }
}

/// Returns an error response in the form that the gateway of an Agent uses.
pub(crate) fn error_response(status: &Status) -> HttpResponse {
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

/// Returns the route of a call.
fn call<M, R, F>(handle: fn(Agent, Call<M>) -> F) -> MethodRouter<Agent>
where
    M: NamedMessage + 'static,
    R: NamedMessage + 'static,
    F: Future<Output = Result<CallResponse<R>, Status>> + Send + 'static,
{
    post(
        move |State(agent): State<Agent>, call: Call<M>| async move {
            let charge = call.charge.clone();
            encode_response(&charge, handle(agent, call).await)
        },
    )
}

/// The largest dynamic configuration in bytes. Real ones set a few values and are far smaller.
const MAX_DYNAMIC_CONFIG_BYTES: usize = 64 << 10;

/// Sets the dynamic configuration of a policy. Other routes are open when no API keys are set; this
/// one changes policies, so it always requires a key.
async fn set_dynamic_config(
    State(agent): State<Agent>,
    Path(policy): Path<String>,
    body: Bytes,
) -> HttpResponse {
    if !agent.inner.keys.are_required() {
        let reason = "this route needs an API key, and the agent has none: start it with \
                       --api-key-file";
        return error_response(&Status::permission_denied(reason));
    }
    if body.len() > MAX_DYNAMIC_CONFIG_BYTES {
        let reason =
            format!("a dynamic configuration may have at most {MAX_DYNAMIC_CONFIG_BYTES} bytes");
        return error_response(&Status::resource_exhausted(reason));
    }
    let Ok(text) = String::from_utf8(body.into()) else {
        return error_response(&Status::invalid_argument("the body is not UTF-8"));
    };
    let engine = agent.inner.engine.clone();
    let name = policy.clone();
    // Loading policies takes long and blocks.
    let set = move || engine.set_dynamic_config(&name, text);
    match tokio::task::spawn_blocking(set).await {
        Ok(Ok(true)) => {
            log_event!(info, policy, "dynamic configuration was set");
            ([(header::CONTENT_TYPE, JSON)], "{}").into_response()
        }
        Ok(Ok(false)) => error_response(&Status::not_found("no policy of this name is in force")),
        Ok(Err(error)) => error_response(&Status::invalid_argument(error.to_string())),
        Err(_) => error_response(&Status::internal("the policies could not be loaded")),
    }
}
