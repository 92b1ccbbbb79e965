//! One service for all that comes in.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
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
use super::budget::{Account, Charge, Line};
use super::delivery::{self, Delivery};
use super::health::Health;
use super::metrics::Handler;
use super::{Agent, json, unary};

const GRPC_STATUS: &str = "grpc-status";
/// The one method whose answer goes on: a connection with nothing else is idle.
const WATCH: &str = "/grpc.health.v1.Health/Watch";
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
    /// What the callers of this service take together: those of one connection where the agent
    /// serves it itself.
    account: Arc<Account>,
    health: HealthServer<Health>,
    json: json::Json,
}

impl AgentService {
    pub(super) fn new(agent: &Agent) -> Self {
        Self {
            account: Account::new(&agent.inner.budget),
            health: HealthServer::new(Health(agent.clone())),
            json: json::router(agent),
            agent: agent.clone(),
        }
    }

    pub(super) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The service for a connection of its own.
    pub(super) fn for_connection(&self) -> Self {
        Self {
            account: Account::new(&self.agent.inner.budget),
            ..self.clone()
        }
    }

    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
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
        let endless = request.uri().path() == WATCH;
        let charge = Charge::new(&self.account, !endless);
        Answering {
            kind: self.begin(request, &charge),
            agent: self.agent.clone(),
            charge,
            endless,
        }
    }
}

impl AgentService {
    fn begin<B>(&mut self, request: Request<B>, charge: &Charge) -> Kind
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let inner = &self.agent.inner;
        let path = request.uri().path();
        let content = request.headers().get(header::CONTENT_TYPE);
        let is_grpc = content.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let headers = request.headers().iter();
        let headers = headers.map(|(name, value)| name.as_str().len() + value.len());
        let head = path.len() + headers.sum::<usize>();
        if let Err(refusal) = charge.take(Line::Incoming, head) {
            return Kind::refused(&refusal, is_grpc);
        }
        let mut request = request.map(|body| Inbound::new(body, charge));
        request.extensions_mut().insert(charge.clone());
        let path = request.uri().path();
        if is_of(&self.health, path) {
            return Kind::Grpc(self.health.call(request));
        }
        if !OPEN.contains(&path)
            && let Err(refusal) = inner.keys.admit(request.headers())
        {
            inner.refuse(refusal);
            if !is_grpc {
                let handler = Handler::of(request.method(), path, &json::PATHS);
                let http = &inner.metrics.http;
                http.answered(handler, StatusCode::UNAUTHORIZED, Instant::now());
            }
            return Kind::refused(&Status::unauthenticated(refusal), is_grpc);
        }
        if let Some(call) = unary::find(path) {
            return Kind::Grpc(call(&self.agent, charge, request));
        }
        if is_grpc {
            return Kind::refused(
                &Status::unimplemented("this node has no such service"),
                true,
            );
        }
        let answer = self.json.call(request.map(axum::body::Body::new));
        Kind::Json(Box::pin(answer))
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
    charge: Charge,
    /// The answer may stay open for as long as its caller likes.
    endless: bool,
}

enum Kind {
    Grpc(Boxed<tonic::body::Body>),
    Json(Boxed<axum::body::Body>),
    Refused(Option<Box<Response<AgentBody>>>),
}

impl Kind {
    fn refused(refusal: &Status, is_grpc: bool) -> Self {
        let answer = if is_grpc {
            grpc(refusal.clone().into_http()).map(AgentBody::grpc)
        } else {
            json::refused(refusal).map(AgentBody::json)
        };
        Self::Refused(Some(Box::new(answer)))
    }
}

/// # Panics
///
/// When it is polled after it was ready.
impl Future for Answering {
    type Output = Result<Response<AgentBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self {
            kind,
            agent,
            charge,
            endless,
        } = &mut *self;
        let undelivered = &agent.inner.metrics.node.undelivered;
        let delivery = |ticket| Delivery::new(ticket, undelivered);
        let answer = match kind {
            Kind::Grpc(answer) => {
                let Ok(mut response) = ready!(answer.as_mut().poll(cx));
                let ticket = delivery::take(&mut response);
                grpc(response).map(|body| AgentBody::grpc(body).delivers(ticket.map(delivery)))
            }
            Kind::Json(answer) => {
                let Ok(mut response) = ready!(answer.as_mut().poll(cx));
                let ticket = delivery::take(&mut response).map(delivery);
                let size = response.body().size_hint().lower();
                let bytes = usize::try_from(size).unwrap_or(usize::MAX);
                match charge.set(Line::Answers, bytes) {
                    Ok(()) => response.map(|body| AgentBody::json(body).delivers(ticket)),
                    // It is dropped, and gives back what it granted.
                    Err(refusal) => json::refused(&refusal).map(AgentBody::json),
                }
            }
            Kind::Refused(answer) => *answer.take().expect("it was not ready before"),
        };
        Poll::Ready(Ok(answer.map(|body| body.charged(charge, *endless))))
    }
}

/// A message that is too large is `RESOURCE_EXHAUSTED` with an Agent; tonic says `OUT_OF_RANGE`,
/// which nothing else here does.
fn grpc(mut response: Response<tonic::body::Body>) -> Response<tonic::body::Body> {
    if let Some(status) = response.headers_mut().get_mut(GRPC_STATUS)
        && Code::from_bytes(status.as_bytes()) == Code::OutOfRange
    {
        *status = HeaderValue::from(Code::ResourceExhausted as i32);
    }
    response
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answering").finish_non_exhaustive()
    }
}
