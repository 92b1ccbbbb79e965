//! One service for all that comes in.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tonic_health::pb::health_server::HealthServer;
use tower_service::Service;

use super::body::{AgentBody, BoxError, Inbound};
use super::check::Checks;
use super::delivery::{self, Delivery};
use super::health::Health;
use super::http::HttpChecks;
use super::metrics::Handler;
use super::trace::Traces;
use super::{Agent, json};
use crate::pb::check::flow_control_service_server::FlowControlServiceServer;
use crate::pb::checkhttp::flow_control_service_http_server::FlowControlServiceHttpServer;
use crate::pb::trace_collector::trace_service_server::TraceServiceServer;

const GRPC_STATUS: &str = "grpc-status";
/// Paths that anyone may ask.
const OPEN: [&str; 2] = ["/health", "/metrics"];

/// Everything that an [`Agent`] answers, for a server of your own. Cloning it is cheap.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_aperture::Engine;
/// use tower_aperture::agent::Agent;
///
/// let agent = Agent::builder(Engine::builder().build()?).build();
/// let app: Router = Router::new()
///     .route("/hello", get(|| async { "own pages" }))
///     .fallback_service(agent.service());
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone)]
pub struct AgentService {
    agent: Agent,
    checks: FlowControlServiceServer<Checks>,
    http_checks: FlowControlServiceHttpServer<HttpChecks>,
    traces: TraceServiceServer<Traces>,
    health: HealthServer<Health>,
    json: json::Json,
}

macro_rules! limited {
    ($server:expr, $agent:expr) => {
        $server
            .max_decoding_message_size($agent.inner.limits.message_size)
            .max_encoding_message_size(usize::MAX)
            // Answers are small: to compress them costs more than to send them.
            .accept_compressed(tonic::codec::CompressionEncoding::Gzip)
    };
}

impl AgentService {
    pub(super) fn new(agent: &Agent) -> Self {
        let own = || agent.clone();
        Self {
            checks: limited!(FlowControlServiceServer::new(Checks(own())), agent),
            http_checks: limited!(FlowControlServiceHttpServer::new(HttpChecks(own())), agent),
            traces: limited!(TraceServiceServer::new(Traces(own())), agent),
            health: HealthServer::new(Health(own())),
            json: json::router(agent),
            agent: own(),
        }
    }
}

impl AgentService {
    pub(super) fn agent(&self) -> &Agent {
        &self.agent
    }
}

impl fmt::Debug for AgentService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AgentService").field(&self.agent).finish()
    }
}

/// Whether a path is that of a service's method.
fn is_of<S: NamedService>(_: &S, path: &str) -> bool {
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
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answering {
        let inner = &self.agent.inner;
        let request = request.map(|body| Inbound::new(body, &inner.budget));
        let path = request.uri().path();
        let content = request.headers().get(header::CONTENT_TYPE);
        let is_grpc = content.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let kind = if is_of(&self.health, path) {
            Kind::Grpc(self.health.call(request))
        } else if !OPEN.contains(&path)
            && let Err(refusal) = inner.keys.admit(request.headers())
        {
            inner.refuse(refusal);
            if !is_grpc {
                let handler = Handler::of(request.method(), path, &json::PATHS);
                let http = &inner.metrics.http;
                http.answered(handler, StatusCode::UNAUTHORIZED, Instant::now());
            }
            let refusal = Status::unauthenticated(refusal);
            let answer = if is_grpc {
                grpc(refusal.into_http(), None)
            } else {
                json::refused(&refusal).map(|body| AgentBody::json(body, None))
            };
            Kind::Refused(Some(Box::new(answer)))
        } else if is_of(&self.checks, path) {
            Kind::Grpc(self.checks.call(request))
        } else if is_of(&self.http_checks, path) {
            Kind::Grpc(self.http_checks.call(request))
        } else if is_of(&self.traces, path) {
            Kind::Grpc(self.traces.call(request))
        } else if is_grpc {
            let refusal = Status::unimplemented("this node has no such service");
            Kind::Refused(Some(Box::new(grpc(refusal.into_http(), None))))
        } else {
            let answer = self.json.call(request.map(axum::body::Body::new));
            Kind::Json(Box::pin(answer))
        };
        Answering {
            kind,
            agent: self.agent.clone(),
        }
    }
}

type Boxed<B> = Pin<Box<dyn Future<Output = Result<Response<B>, Infallible>> + Send>>;

/// An answer of an [`AgentService`] to come. Dropping it leaves the queues.
///
/// See [`AgentBody`] for an example.
#[must_use = "futures do nothing unless polled"]
pub struct Answering {
    kind: Kind,
    agent: Agent,
}

enum Kind {
    Grpc(Boxed<tonic::body::Body>),
    Json(Boxed<axum::body::Body>),
    Refused(Option<Box<Response<AgentBody>>>),
}

/// # Panics
///
/// When it is polled after it was ready.
impl Future for Answering {
    type Output = Result<Response<AgentBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { kind, agent } = &mut *self;
        let undelivered = &agent.inner.metrics.node.undelivered;
        let delivery = |ticket| Delivery::new(ticket, undelivered);
        Poll::Ready(Ok(match kind {
            Kind::Grpc(answer) => {
                let Ok(mut response) = ready!(answer.as_mut().poll(cx));
                let ticket = delivery::take(&mut response);
                grpc(response, ticket.map(delivery))
            }
            Kind::Json(answer) => {
                let Ok(mut response) = ready!(answer.as_mut().poll(cx));
                let ticket = delivery::take(&mut response);
                response.map(|body| AgentBody::json(body, ticket.map(delivery)))
            }
            Kind::Refused(answer) => *answer.take().expect("it was not ready before"),
        }))
    }
}

/// A message that is too large is `RESOURCE_EXHAUSTED` with an Agent; tonic says `OUT_OF_RANGE`,
/// which nothing else here does.
fn grpc(
    mut response: Response<tonic::body::Body>,
    delivery: Option<Delivery>,
) -> Response<AgentBody> {
    if let Some(status) = response.headers_mut().get_mut(GRPC_STATUS)
        && Code::from_bytes(status.as_bytes()) == Code::OutOfRange
    {
        *status = HeaderValue::from(Code::ResourceExhausted as i32);
    }
    response.map(|body| AgentBody::grpc(body, delivery))
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answering").finish_non_exhaustive()
    }
}
