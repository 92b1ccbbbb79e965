//! The client: flows by hand, and the decider of a layer.
//!
//! An [`ApertureClient`] asks a real Agent, or an embedded engine, or nobody;
//! what is built on it is the same in each case.
//!
//! ```
//! use tower_aperture::{ApertureClient, FlowParams, FlowStatus};
//!
//! # async fn work() -> Result<(), ()> { Ok(()) }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # let client = ApertureClient::disabled();
//! let flow = client.start_flow("checkout", FlowParams::new().label("user_id", "42")).await;
//! if flow.should_run() {
//!     if work().await.is_err() {
//!         flow.set_status(FlowStatus::Error);
//!     }
//! }
//! flow.end().await;
//! # });
//! ```

// Each backend can be left out, and with it what only it uses.
#![cfg_attr(
    not(all(feature = "remote", feature = "embedded")),
    allow(dead_code, unreachable_code, unused_imports, unused_variables)
)]

#[cfg(feature = "remote")]
mod builder;
mod cache;
mod counters;
mod decide;
#[cfg(feature = "embedded")]
mod embedded;
mod flow;
mod http;
#[cfg(feature = "remote")]
mod late;
mod record;
#[cfg(feature = "test-util")]
mod scripted;
#[cfg(feature = "remote")]
mod unlimited;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "remote")]
pub use self::builder::{ApertureClientBuilder, BuildError};
pub use self::decide::{ClientPending, ClientTicket};
pub use self::flow::Flow;
#[cfg(feature = "test-util")]
pub use self::scripted::{Answer, RecordedFlow, Script};
pub use crate::flow::CacheError;

use self::counters::Counters;
use crate::flow::{
    AgentStatus, Check, ClientStats, ConnectionState, Decider, FlowParams, FlowStatus,
    Invalidations, Rejection,
};
use crate::meter::Meter;

/// Starts flows: with a real Agent, an embedded engine, or nobody behind it.
///
/// Cloning is a pointer bump and all clones are one client. Building one does no I/O and needs no
/// runtime; the connection to an Agent is made when the first flow starts, and made again after it
/// was lost by the next flow that needs it. A failure to reach the Agent is never an error of
/// yours: flows are [unreachable](crate::FlowDecision::Unreachable) then, and run unless ramp mode
/// says otherwise.
///
/// See the [module docs](crate::client) for an example.
#[derive(Clone)]
pub struct ApertureClient {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    /// Shared by all clients of one engine, or of the same Agents.
    invalidations: Invalidations,
    counters: Counters,
    meter: Meter,
    /// The check timeout of flows over the embedded engine that set none; zero is no limit.
    #[cfg(feature = "embedded")]
    check_timeout: Duration,
    #[cfg(feature = "remote")]
    unlimited: unlimited::Unlimited,
}

/// The check timeout where neither the client nor the flow sets one, with an Agent and in
/// process.
#[cfg(any(feature = "embedded", feature = "remote"))]
const CHECK_TIMEOUT: Duration = Duration::from_millis(200);

enum Backend {
    Disabled,
    #[cfg(feature = "embedded")]
    Embedded(crate::Engine),
    #[cfg(feature = "remote")]
    Remote(crate::remote::Remote),
    #[cfg(feature = "test-util")]
    Scripted(Script),
}

impl Inner {
    fn new(backend: Backend) -> Self {
        Self {
            invalidations: backend.invalidations(),
            backend,
            counters: Counters::default(),
            meter: Meter::default(),
            #[cfg(feature = "embedded")]
            check_timeout: CHECK_TIMEOUT,
            #[cfg(feature = "remote")]
            unlimited: unlimited::Unlimited::default(),
        }
    }
}

impl Backend {
    const fn name(&self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            #[cfg(feature = "embedded")]
            Self::Embedded(_) => "embedded",
            #[cfg(feature = "remote")]
            Self::Remote(_) => "remote",
            #[cfg(feature = "test-util")]
            Self::Scripted(_) => "scripted",
        }
    }

    /// Returns the invalidations that all clients of the same caches share. Agents behind a
    /// channel of the caller's have no address: then only clones of the client share them.
    fn invalidations(&self) -> Invalidations {
        match self {
            #[cfg(feature = "embedded")]
            Self::Embedded(engine) => engine.invalidations().clone(),
            #[cfg(feature = "remote")]
            Self::Remote(remote) => {
                let agents = remote.agents().into_iter();
                let addresses: Option<Vec<String>> = agents.map(|agent| agent.address).collect();
                addresses.map_or_else(Invalidations::default, Invalidations::of_agents)
            }
            _ => Invalidations::default(),
        }
    }
}

impl ApertureClient {
    fn with(backend: Backend) -> Self {
        Self {
            inner: Arc::new(Inner::new(backend)),
        }
    }

    /// Describes a client of a real Agent.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_aperture::ApertureClient;
    ///
    /// let client = ApertureClient::builder()
    ///     .address("localhost:8089")
    ///     .insecure(true)
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "remote")]
    #[must_use]
    pub fn builder() -> ApertureClientBuilder {
        ApertureClientBuilder::new()
    }

    /// A client of the Agent that the environment names: `APERTURE_AGENT_ADDRESS`,
    /// `APERTURE_API_KEY` and `APERTURE_AGENT_INSECURE` (`true` or `false`, the default). Commas
    /// separate the addresses of several.
    ///
    /// # Errors
    ///
    /// When there is no address, or a value makes no sense; the error names the variable.
    #[cfg(feature = "remote")]
    pub fn from_env() -> Result<Self, BuildError> {
        ApertureClientBuilder::from_env()?.build()
    }

    #[cfg(feature = "remote")]
    pub(crate) fn from_remote(remote: crate::remote::Remote) -> Self {
        Self::with(Backend::Remote(remote))
    }

    /// Returns a client that decides in process.
    ///
    /// A scheduler keeps a flow waiting for at most 200 ms, as with an Agent, unless the flow or its
    /// layer has a [check timeout](FlowParams::check_timeout) of its own or the client is made
    /// [with another one](Self::embedded_with_check_timeout). The first flow that a longer
    /// `queue_timeout` of a policy meets is logged as a warning.
    ///
    /// ```
    /// use tower_aperture::{ApertureClient, Engine};
    ///
    /// let engine = Engine::builder().build()?;
    /// let client = ApertureClient::embedded(engine);
    /// # let _ = client;
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[cfg(feature = "embedded")]
    #[must_use]
    pub fn embedded(engine: crate::Engine) -> Self {
        Self::embedded_with_check_timeout(engine, CHECK_TIMEOUT)
    }

    /// Returns a client that decides in process, and whose flows wait in schedulers for at most
    /// `check_timeout` unless they say otherwise. Zero means no limit: a flow then waits as long as
    /// its policies let it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_aperture::{ApertureClient, Engine};
    ///
    /// // Its policies queue flows for up to two seconds.
    /// let engine = Engine::builder().build()?;
    /// let client = ApertureClient::embedded_with_check_timeout(engine, Duration::from_secs(2));
    /// # let _ = client;
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[cfg(feature = "embedded")]
    #[must_use]
    pub fn embedded_with_check_timeout(engine: crate::Engine, check_timeout: Duration) -> Self {
        Self {
            inner: Arc::new(Inner {
                check_timeout,
                ..Inner::new(Backend::Embedded(engine))
            }),
        }
    }

    /// Asks the engine with the budget of the flow, whose default is the client's check timeout.
    #[cfg(feature = "embedded")]
    #[inline(always)]
    fn asking(&self, params: &FlowParams<'_>) -> crate::engine::DecideContext {
        crate::engine::DecideContext::new(params.budget(Some(self.inner.check_timeout)))
    }

    /// A client that asks nobody: every flow is unreachable, so it runs unless ramp mode is on.
    #[must_use]
    pub fn disabled() -> Self {
        log_event!(warn, "flow control is disabled: flows run unchecked");
        Self::with(Backend::Disabled)
    }

    /// Starts a flow; whatever happens there is a [`Flow`].
    ///
    /// Takes no longer than the check timeout. Dropping the future gives up the flow: an Agent's
    /// grant that is on its way is given back in the background.
    pub async fn start_flow(&self, control_point: &str, params: FlowParams<'_>) -> Flow {
        #[cfg(feature = "embedded")]
        if let Backend::Embedded(engine) = &self.inner.backend {
            return self.start_embedded(engine, control_point, &params).await;
        }
        let verdict = match self.decide(control_point, &params) {
            Check::Ready(verdict) => verdict,
            Check::Pending(pending) => pending.await,
        };
        Flow::new(self.clone(), control_point, &params, verdict)
    }

    /// Runs `work` as a flow and ends it, with status `OK` when `work` returns and `Error` when it
    /// panics or is dropped. Ending waits for nothing.
    ///
    /// ```
    /// use tower_aperture::{ApertureClient, FlowParams};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let client = ApertureClient::disabled();
    /// let sum = client.guard("add", FlowParams::new(), async { 1 + 1 }).await;
    /// assert_eq!(sum, Ok(2));
    /// # });
    /// ```
    ///
    /// # Errors
    ///
    /// The rejection, when the flow must not run; `work` is dropped unpolled then.
    pub async fn guard<T>(
        &self,
        control_point: &str,
        params: FlowParams<'_>,
        work: impl Future<Output = T>,
    ) -> Result<T, Rejection> {
        let flow = self.start_flow(control_point, params).await;
        if let Some(rejection) = flow.rejection() {
            return Err(rejection);
        }
        let done = work.await;
        flow.finish(FlowStatus::Ok);
        Ok(done)
    }

    /// Like [`guard`](Self::guard) for work that may fail: the flow ends with status `Error` when
    /// it does.
    ///
    /// ```
    /// use tower_aperture::{ApertureClient, FlowParams};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let client = ApertureClient::disabled();
    /// let out = client.try_guard("add", FlowParams::new(), async { "x".parse::<u8>() }).await;
    /// assert!(out.is_ok_and(|parsed| parsed.is_err()));
    /// # });
    /// ```
    ///
    /// # Errors
    ///
    /// The rejection, when the flow must not run; `work` is dropped unpolled then.
    pub async fn try_guard<T, E>(
        &self,
        control_point: &str,
        params: FlowParams<'_>,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, Rejection> {
        let flow = self.start_flow(control_point, params).await;
        if let Some(rejection) = flow.rejection() {
            return Err(rejection);
        }
        let done = work.await;
        flow.finish(if done.is_ok() {
            FlowStatus::Ok
        } else {
            FlowStatus::Error
        });
        Ok(done)
    }

    /// How the client stands with its Agent, the best of several; asking does no I/O.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        match &self.inner.backend {
            Backend::Disabled => ConnectionState::Shutdown,
            #[cfg(feature = "embedded")]
            Backend::Embedded(_) => ConnectionState::Ready,
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => remote.state(),
            #[cfg(feature = "test-util")]
            Backend::Scripted(_) => ConnectionState::Ready,
        }
    }

    /// How each Agent is doing, in the order of their addresses; asking does no I/O. Empty unless
    /// there is a real Agent.
    ///
    /// ```
    /// use tower_aperture::{ApertureClient, ConnectionState};
    ///
    /// # #[cfg(feature = "remote")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = ApertureClient::builder()
    ///     .addresses(["agent-0:8089", "agent-1:8089"])
    ///     .insecure(true)
    ///     .build()?;
    /// let agents = client.agents();
    /// assert_eq!(agents[1].address.as_deref(), Some("agent-1:8089"));
    /// assert_eq!(agents[1].state, ConnectionState::Idle);
    /// # Ok(()) }
    /// # #[cfg(not(feature = "remote"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn agents(&self) -> Vec<AgentStatus> {
        match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => remote.agents(),
            _ => Vec::new(),
        }
    }

    /// Asks the Agents by their health service, and returns `true` when one answers within `timeout`;
    /// any answer counts. It connects if need be, starts no flow, and remembers nothing: an Agent
    /// that was ready a moment ago is asked again. An Agent that was given up is asked as well, and
    /// its answer brings it back.
    ///
    /// Returns `true` for an embedded engine and `false` for a disabled client and after
    /// [`shutdown`](Self::shutdown). Outside a tokio runtime the Agents are asked in a runtime that
    /// the client has been used in; the result is `false` where there is none.
    pub async fn wait_ready(&self, timeout: Duration) -> bool {
        match &self.inner.backend {
            Backend::Disabled => false,
            #[cfg(feature = "embedded")]
            Backend::Embedded(_) => true,
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => remote.wait_ready(timeout).await,
            #[cfg(feature = "test-util")]
            Backend::Scripted(_) => true,
        }
    }

    /// What the client has counted so far.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        #[allow(unused_mut)]
        let mut stats = self.inner.counters.snapshot();
        #[cfg(feature = "remote")]
        if let Backend::Remote(remote) = &self.inner.backend {
            remote.add_stats(&mut stats);
        }
        stats
    }

    /// Stops starting flows, waits until the flows under way have ended, delivers ends, changes to
    /// caches and spans that still wait, and closes the connections.
    ///
    /// Returns `true` when no flow holds a slot, a span or an unsent end any more, and nothing has
    /// been lost since the first call. Returns `false` after `timeout` otherwise: what is left is
    /// dropped and counted in [`stats`](Self::stats). The timeout holds outside a tokio runtime too,
    /// and when the client's own runtimes stand still.
    ///
    /// Flows started later are unreachable. Does nothing for an embedded engine, which keeps
    /// deciding.
    pub async fn shutdown(&self, timeout: Duration) -> bool {
        match &self.inner.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => remote.shutdown(timeout).await,
            _ => true,
        }
    }
}

impl fmt::Debug for ApertureClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApertureClient")
            .field("backend", &self.inner.backend.name())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
