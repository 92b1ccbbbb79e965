//! The gRPC services one by one, for tonic servers of others.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;
use tower_service::Service;

use super::{Agent, AgentBody, AgentService, Answering};
use crate::pb::check::flow_control_service_server::FlowControlServiceServer;
use crate::pb::checkhttp::flow_control_service_http_server::FlowControlServiceHttpServer;
use crate::pb::trace_collector::trace_service_server::TraceServiceServer;

/// Finds its way by the path, as the whole service does, so it only has to be called something.
struct Mounted<S> {
    service: AgentService,
    name: PhantomData<fn() -> S>,
}

impl<S> Clone for Mounted<S> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            name: PhantomData,
        }
    }
}

impl<S: NamedService> NamedService for Mounted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Mounted<S> {
    type Response = Response<AgentBody>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        self.service.call(request)
    }
}

macro_rules! mounted {
    ($($(#[$doc:meta])* $method:ident: $server:ty;)*) => {
        impl Agent {
            $($(#[$doc])*
            #[must_use]
            pub fn $method(
                &self,
            ) -> impl Service<
                Request<Body>,
                Response = Response<AgentBody>,
                Error = Infallible,
                Future = Answering,
            > + NamedService + Clone + Send + Sync + 'static {
                Mounted::<$server> { service: self.service(), name: PhantomData }
            })*
        }
    };
}

mounted! {
    /// Checks, ends and caches alone, for a tonic server of your own. Bounds, keys and health are
    /// those of the agent.
    ///
    /// ```
    /// use tower_aperture::Engine;
    /// use tower_aperture::agent::Agent;
    ///
    /// let agent = Agent::builder(Engine::builder().build()?).build();
    /// let router = tonic::transport::Server::builder()
    ///     .add_service(agent.check_service())
    ///     .add_service(agent.check_http_service())
    ///     .add_service(agent.trace_service())
    ///     .add_service(agent.health_service());
    /// # let _ = router;
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    check_service: FlowControlServiceServer<()>;
    /// Checks of HTTP requests alone, like [`check_service`](Self::check_service).
    check_http_service: FlowControlServiceHttpServer<()>;
    /// The receiver of spans alone, like [`check_service`](Self::check_service).
    trace_service: TraceServiceServer<()>;
    /// Health alone, like [`check_service`](Self::check_service).
    health_service: HealthServer<()>;
}
