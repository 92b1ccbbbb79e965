//! One service for all that comes in.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tonic::Status;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;
use tower_service::Service;

use super::Agent;
use super::check::Checks;
use super::health::Health;
use crate::pb::check::flow_control_service_server::FlowControlServiceServer;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// One box a call, as every gRPC server in these parts has it.
type Answer = Pin<Box<dyn Future<Output = Result<Response<tonic::body::Body>, Infallible>> + Send>>;

/// Everything that an [`Agent`] answers.
#[derive(Clone)]
pub struct AgentService {
    agent: Agent,
    checks: FlowControlServiceServer<Checks>,
    health: HealthServer<Health>,
}

impl AgentService {
    pub(super) fn new(agent: &Agent) -> Self {
        Self {
            agent: agent.clone(),
            checks: agent.checks(),
            health: HealthServer::new(Health(agent.clone())),
        }
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
    B: Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send + 'static,
{
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        if is_of(&self.health, path) {
            return self.health.call(request);
        }
        if let Err(refusal) = self.agent.inner.keys.admit(request.headers()) {
            let answer = Status::unauthenticated(refusal).into_http();
            return Box::pin(std::future::ready(Ok(answer)));
        }
        if is_of(&self.checks, path) {
            return self.checks.call(request);
        }
        let answer = Status::unimplemented("there is no such method").into_http();
        Box::pin(std::future::ready(Ok(answer)))
    }
}
