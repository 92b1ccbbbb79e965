//! The client, which starts flows without a layer and is the decider of a layer.
//!
//! An [`ApertureClient`] uses an Agent, an embedded engine or neither. Code that uses it is the same
//! in each case.
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

// Without a backend, the code that only it uses is dead.
#![cfg_attr(
    not(all(feature = "remote", feature = "embedded")),
    allow(dead_code, unreachable_code, unused_imports, unused_variables)
)]

#[cfg(feature = "remote")]
mod builder;
pub(crate) mod cache;
#[cfg(all(feature = "remote", feature = "raw-protocol"))]
mod check_response;
mod counters;
mod decide;
#[cfg(feature = "embedded")]
mod embedded;
mod flow;
mod http;
#[cfg(feature = "remote")]
mod late;
mod pending;
mod record;
#[cfg(feature = "test-util")]
mod scripted;
mod ticket;
#[cfg(feature = "remote")]
mod unlimited;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "remote")]
pub use self::builder::{ApertureClientBuilder, BuildError};
pub use self::flow::Flow;
pub use self::pending::ClientPending;
#[cfg(feature = "test-util")]
pub use self::scripted::{RecordedFlow, Script, ScriptedDecision};
pub use self::ticket::ClientTicket;

use self::counters::ClientCounters;
use crate::flow::{
    AgentStatus, Check, ClientStats, ConnectionState, Decider, FlowParams, FlowStatus,
    Invalidations, Rejection,
};
use crate::meter::Meter;

/// The former name of [`ScriptedDecision`].
#[cfg(feature = "test-util")]
#[deprecated = "renamed to `ScriptedDecision`"]
pub type Answer = ScriptedDecision;

/// Starts flows, and decides about them with an Agent or an embedded engine.
///
/// A clone is cheap and shares all state with the original. Building a client does no I/O and needs
/// no runtime. The first flow connects to the Agent; after a lost connection, the next flow that
/// needs one connects again. A failure to reach the Agent is not an error for the caller: flows are
/// then [unreachable](crate::FlowDecision::Unreachable) and run, unless they are in ramp mode.
///
/// See the [module docs](crate::client) for an example.
#[derive(Clone)]
pub struct ApertureClient {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    /// Shared by all clients of the same engine or the same Agents.
    invalidations: Invalidations,
    counters: ClientCounters,
    meter: Meter,
    /// The check timeout of flows of the embedded engine that set none; zero means no limit.
    #[cfg(feature = "embedded")]
    check_timeout: Duration,
    #[cfg(feature = "remote")]
    unlimited: unlimited::UnlimitedFlowWarnings,
}

/// The check timeout if neither the client nor the flow sets one, with an Agent and in process.
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
            counters: ClientCounters::default(),
            meter: Meter::default(),
            #[cfg(feature = "embedded")]
            check_timeout: CHECK_TIMEOUT,
            #[cfg(feature = "remote")]
            unlimited: unlimited::UnlimitedFlowWarnings::default(),
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

    /// Returns the invalidations that all clients of the same caches share. Agents behind a channel
    /// that the application supplied have no address, so only clones of the client share theirs.
    fn invalidations(&self) -> Invalidations {
        match self {
            #[cfg(feature = "embedded")]
            Self::Embedded(engine) => engine.invalidations().clone(),
            #[cfg(feature = "remote")]
            Self::Remote(remote) => {
                let agents = remote.agents().into_iter();
                let addresses: Option<Vec<String>> = agents.map(|agent| agent.address).collect();
                addresses.map_or_else(Invalidations::default, Invalidations::for_agents)
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

    /// Returns a builder for a client that connects to an Agent.
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

    /// Returns a client of the Agent that the environment variables `APERTURE_AGENT_ADDRESS`,
    /// `APERTURE_API_KEY` and `APERTURE_AGENT_INSECURE` (`true` or `false`, the default) describe.
    /// Commas separate the addresses of several Agents.
    ///
    /// # Errors
    ///
    /// Returns an error that names the variable if there is no address or a value is invalid.
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
    /// A scheduler queues a flow for at most 200 ms, as with an Agent, unless the flow or its layer
    /// has a [check timeout](FlowParams::check_timeout) of its own or the client is made
    /// [with another one](Self::embedded_with_check_timeout). The client logs a warning for the first
    /// flow whose scheduler has a longer `queue_timeout`.
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

    /// Returns a client that decides in process and has this default check timeout.
    ///
    /// A flow without a check timeout of its own waits in schedulers for at most `check_timeout`.
    /// Zero means no limit: a flow then waits as long as its policies allow.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_aperture::{ApertureClient, Engine};
    ///
    /// // The policies of this engine queue flows for up to two seconds.
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

    /// Returns the state of a check by the engine, with the budget of the flow. The default of the
    /// budget is the client's check timeout.
    #[cfg(feature = "embedded")]
    #[inline(always)]
    fn engine_check(&self, params: &FlowParams<'_>) -> crate::engine::DecideContext {
        crate::engine::DecideContext::new(params.budget(Some(self.inner.check_timeout)))
    }

    /// Returns a client without flow control: every flow is unreachable, so it runs unless it is in
    /// ramp mode.
    #[must_use]
    pub fn disabled() -> Self {
        log_event!(warn, "flow control is disabled: flows run unchecked");
        Self::with(Backend::Disabled)
    }

    /// Starts a flow. Always returns a [`Flow`], even if no decision was reached.
    ///
    /// Takes no longer than the check timeout, plus the grace with an Agent. Dropping the future
    /// abandons the flow: slots that an Agent grants meanwhile are returned in the background.
    pub async fn start_flow(&self, control_point: &str, params: FlowParams<'_>) -> Flow {
        let verdict = match &self.inner.backend {
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => {
                self.check_with_report(engine, control_point, &params).await
            }
            _ => match self.decide(control_point, &params) {
                Check::Ready(verdict) => verdict,
                Check::Pending(pending) => pending.await,
            },
        };
        Flow::new(self.clone(), control_point, &params, verdict)
    }

    /// Runs `work` as a flow, then ends the flow with status `OK`, or with `Error` if `work` panics
    /// or is dropped. The end is delivered in the background.
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
    /// Returns the rejection if the flow must not run. `work` is then dropped without being polled.
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

    /// Runs `work` like [`guard`](Self::guard), and ends the flow with status `Error` if `work`
    /// returns an error.
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
    /// Returns the rejection if the flow must not run. `work` is then dropped without being polled.
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

    /// Returns the state of the connection to the Agent; of several Agents, the best state. Does no
    /// I/O.
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

    /// Returns the status of each Agent, in the order of their addresses. Does no I/O. Empty for
    /// clients without an Agent.
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

    /// Probes the Agents with their health service, and returns `true` once one answers within
    /// `timeout`; any response counts. Connects if necessary and starts no flow. Each call probes
    /// anew, even an Agent that was ready a moment ago. Agents that were given up are probed as
    /// well and used again if they answer.
    ///
    /// Returns `true` for an embedded engine, and `false` for a disabled client and after
    /// [`shutdown`](Self::shutdown). Outside a tokio runtime, the probes run in a runtime in which
    /// the client was used before; without one, the result is `false`.
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

    /// Returns the counters of the client.
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

    /// Shuts the client down gracefully: starts no more flows, waits for the end of those under way,
    /// delivers queued ends, changes to caches and spans, and closes the connections.
    ///
    /// Returns `true` once no flow holds a slot, a span or an unsent end any more, if no end, change
    /// or span has been lost since the first call. Otherwise returns `false` after `timeout`; ends,
    /// changes and spans that are still queued are dropped and counted in [`stats`](Self::stats).
    /// The timeout also holds outside a tokio runtime, and if the runtimes of the client stand
    /// still.
    ///
    /// Flows started later are unreachable. With an embedded engine, the method does nothing and the
    /// engine continues to decide.
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
