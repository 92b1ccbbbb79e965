//! The gRPC services one by one, for tonic servers of applications.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;
use tower_service::Service;

use super::{Agent, AgentBody, AgentService, ResponseFuture};
use tower_aperture::pb::check::flow_control_service_server::FlowControlServiceServer;
use tower_aperture::pb::checkhttp::flow_control_service_http_server::FlowControlServiceHttpServer;
use tower_aperture::pb::trace_collector::trace_service_server::TraceServiceServer;

/// The whole service with the name of the gRPC service `S`. It routes by path, as the whole service
/// does; this type only adds the `NamedService` name that tonic needs.
struct NamedAgentService<S> {
    service: AgentService,
    name: PhantomData<fn() -> S>,
}

impl<S> Clone for NamedAgentService<S> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            name: PhantomData,
        }
    }
}

impl<S: NamedService> NamedService for NamedAgentService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for NamedAgentService<S> {
    type Response = Response<AgentBody>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        self.service.call(request)
    }
}

macro_rules! named_services {
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
                Future = ResponseFuture,
            > + NamedService + Clone + Send + Sync + 'static {
                NamedAgentService::<$server> { service: self.service(), name: PhantomData }
            })*
        }
    };
}

named_services! {
    /// Returns the service for checks, ends of flows and caches alone, for a tonic server of your
    /// own. Limits, keys and health are those of the agent.
    ///
    /// ```
    /// use tower_aperture::Engine;
    /// use tower_aperture_agent::Agent;
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
    /// Returns the service for checks of HTTP requests alone, like
    /// [`check_service`](Self::check_service).
    check_http_service: FlowControlServiceHttpServer<()>;
    /// Returns the service that receives spans alone, like [`check_service`](Self::check_service).
    trace_service: TraceServiceServer<()>;
    /// Returns the health service alone, like [`check_service`](Self::check_service).
    health_service: HealthServer<()>;
}
