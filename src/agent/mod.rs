//! An Agent of one node: an [`Engine`] behind the Agent's own protocol.

mod auth;
mod builder;
mod check;
mod convert;
mod drain;
mod health;
mod serve;
mod service;
mod waiting;

use std::fmt;
use std::sync::Arc;

use tonic::codec::CompressionEncoding;

use crate::Engine;
use crate::pb::check::flow_control_service_server::FlowControlServiceServer;

pub use self::auth::ApiKey;
pub use self::builder::AgentBuilder;
pub use self::serve::ServeError;
pub use self::service::AgentService;

use self::auth::ApiKeys;
use self::builder::Limits;
use self::check::Checks;
use self::drain::Drain;
use self::waiting::Waiting;

/// An engine that answers over the network.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    keys: ApiKeys,
    limits: Limits,
    drain: Drain,
    waiting: Waiting,
}

impl Agent {
    /// Begins with an engine, whose policies decide.
    #[must_use]
    pub fn builder(engine: Engine) -> AgentBuilder {
        AgentBuilder::new(engine)
    }

    /// The engine that decides.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    fn checks(&self) -> FlowControlServiceServer<Checks> {
        let server = FlowControlServiceServer::new(Checks(self.clone()))
            .max_decoding_message_size(self.inner.limits.message_size)
            .max_encoding_message_size(usize::MAX);
        server
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip)
    }

    /// All that it answers, as one service: for a server of your own, or an axum router's
    /// `fallback_service`.
    #[must_use]
    pub fn service(&self) -> AgentService {
        AgentService::new(self)
    }

    /// Tells everybody that this is the end; see [`serve`](Self::serve).
    pub fn shutdown(&self) {
        self.inner.drain.begin();
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("engine", &self.inner.engine)
            .field("limits", &self.inner.limits)
            .finish_non_exhaustive()
    }
}
