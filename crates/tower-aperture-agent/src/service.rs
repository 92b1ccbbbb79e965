//! The service that routes all calls, gRPC and HTTP.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::Body;
use tonic::Status;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;
use tower_service::Service;

use super::body::{AgentBody, BoxError, RequestBody};
use super::health::AgentHealth;
use super::memory_budget::{Charge, ConnectionAccount, MemoryKind};
use super::metrics::HandlerLabels;
use super::{Agent, grpc, json};

/// The only method with a streaming response. A connection with no other call is idle.
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
/// HTTP paths that need no API key.
const PUBLIC_PATHS: [&str; 4] = ["/health", "/livez", "/readyz", "/metrics"];

/// All routes of an [`Agent`] as one Tower service, for a server of your own. Cloning it is cheap.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_aperture::Engine;
/// use tower_aperture_agent::Agent;
///
/// let agent = Agent::builder(Engine::builder().build()?).build();
/// let app: Router = Router::new()
///     .route("/hello", get(|| async { "another route" }))
///     .fallback_service(agent.service());
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone)]
pub struct AgentService {
    agent: Agent,
    /// The memory that callers of this service hold together; the callers of one connection where
    /// the agent is the server.
    account: Arc<ConnectionAccount>,
    health: HealthServer<AgentHealth>,
    json: json::JsonRouter,
}

impl Agent {
    /// Returns one service for all calls: for a server of your own, or for the `fallback_service`
    /// of an axum router.
    #[must_use]
    pub fn service(&self) -> AgentService {
        AgentService::new(self)
    }
}

impl AgentService {
    pub(super) fn new(agent: &Agent) -> Self {
        Self {
            account: ConnectionAccount::new(&agent.inner.budget),
            health: HealthServer::new(AgentHealth(agent.clone())),
            json: json::router(agent),
            agent: agent.clone(),
        }
    }

    pub(super) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Returns a service with an account of its own, for a new connection.
    pub(super) fn for_connection(&self) -> Self {
        Self {
            account: ConnectionAccount::new(&self.agent.inner.budget),
            ..self.clone()
        }
    }

    pub(super) fn account(&self) -> &Arc<ConnectionAccount> {
        &self.account
    }
}

impl fmt::Debug for AgentService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AgentService").field(&self.agent).finish()
    }
}

/// Whether `path` is a method of the service `S`.
fn is_method_of<S: NamedService>(_: &S, path: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|path| path.strip_prefix(S::NAME))
        .is_some_and(|method| method.starts_with('/'))
}

impl<B> Service<Request<B>> for AgentService
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<AgentBody>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let streaming = request.uri().path() == HEALTH_WATCH;
        let charge = Charge::new(&self.account, !streaming);
        ResponseFuture {
            kind: self.route(request, &charge),
            agent: self.agent.clone(),
            charge,
            streaming,
        }
    }
}

impl AgentService {
    fn route<B>(&mut self, request: Request<B>, charge: &Charge) -> Kind
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let inner = &self.agent.inner;
        let path = request.uri().path();
        let content_type = request.headers().get(header::CONTENT_TYPE);
        let is_grpc =
            content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let headers = request.headers().iter();
        let headers = headers.map(|(name, value)| name.as_str().len() + value.len());
        let head_bytes = path.len() + headers.sum::<usize>();
        if let Err(status) = charge.take(MemoryKind::Incoming, head_bytes) {
            return Kind::refused(&status, is_grpc);
        }
        if is_method_of(&self.health, path) {
            let request = request.map(|body| RequestBody::new(body, charge));
            return Kind::Health(self.health.call(request));
        }
        if !PUBLIC_PATHS.contains(&path)
            && let Err(reason) = inner.keys.authenticate(request.headers())
        {
            inner.unauthenticated(reason);
            if !is_grpc {
                let handler = HandlerLabels::of(request.method(), path, &json::PATHS);
                let http = &inner.metrics.http;
                http.record(handler, StatusCode::UNAUTHORIZED, Instant::now());
            }
            return Kind::refused(&Status::unauthenticated(reason), is_grpc);
        }
        if let Some(handler) = grpc::find_handler(path) {
            let request = request.map(|body| RequestBody::new(body, charge));
            return Kind::Grpc(handler(&self.agent, charge, request));
        }
        if is_grpc {
            return Kind::refused(
                &Status::unimplemented("the agent does not serve this method"),
                true,
            );
        }
        let mut request = request.map(|body| RequestBody::new(body, charge));
        request.extensions_mut().insert(charge.clone());
        let response = self.json.call(request.map(axum::body::Body::new));
        Kind::Json(Box::pin(response))
    }
}

type BoxedResponse<B> = Pin<Box<dyn Future<Output = Result<Response<B>, Infallible>> + Send>>;

/// The future of an [`AgentService`] response. Dropping it removes a waiting flow from its queue.
///
/// See [`AgentBody`] for an example.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture {
    kind: Kind,
    agent: Agent,
    charge: Charge,
    /// The response may stay open for as long as the caller likes.
    streaming: bool,
}

enum Kind {
    Grpc(grpc::GrpcFuture),
    Health(BoxedResponse<tonic::body::Body>),
    Json(BoxedResponse<axum::body::Body>),
    Refused(Option<Box<Response<AgentBody>>>),
}

impl Kind {
    fn refused(status: &Status, is_grpc: bool) -> Self {
        let response = if is_grpc {
            grpc::error_response(status)
        } else {
            json::error_response(status).map(AgentBody::json)
        };
        Self::Refused(Some(Box::new(response)))
    }
}

/// # Panics
///
/// Panics when it is polled after completion.
impl Future for ResponseFuture {
    type Output = Result<Response<AgentBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self {
            kind,
            agent,
            charge,
            streaming,
        } = &mut *self;
        let response = match kind {
            // It charges its response itself.
            Kind::Grpc(future) => return future.as_mut().poll(cx).map(Ok),
            Kind::Health(future) => {
                let Ok(response) = ready!(future.as_mut().poll(cx));
                response.map(AgentBody::grpc)
            }
            Kind::Json(future) => {
                let Ok(mut response) = ready!(future.as_mut().poll(cx));
                let undelivered = &agent.inner.metrics.process.undelivered;
                let delivery = json::take_grant(&mut response).into_delivery(undelivered);
                let size = response.body().size_hint().lower();
                let bytes = usize::try_from(size).unwrap_or(usize::MAX);
                match charge.set(MemoryKind::Responses, bytes) {
                    Ok(()) => response.map(|body| AgentBody::json(body).with_delivery(delivery)),
                    // The response is dropped, which returns the slots that it granted.
                    Err(status) => json::error_response(&status).map(AgentBody::json),
                }
            }
            Kind::Refused(response) => *response.take().expect("not polled after completion"),
        };
        Poll::Ready(Ok(response.map(|body| body.with_charge(charge, *streaming))))
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
