//! The client and the state that its clones share.

use std::fmt;
use std::sync::Arc;
#[cfg(any(feature = "embedded", feature = "remote"))]
use std::time::Duration;

use super::counters::ClientCounters;
#[cfg(feature = "test-util")]
use super::scripted::Script;
#[cfg(feature = "remote")]
use super::unlimited::UnlimitedFlowWarnings;
#[cfg(feature = "embedded")]
use crate::flow::FlowParams;
use crate::flow::Invalidations;
use crate::meter::Meter;

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
    pub(super) inner: Arc<Inner>,
}

/// The state that all clones of a client share.
pub(super) struct Inner {
    pub(super) backend: Backend,
    /// Shared by all clients of the same engine or the same Agents.
    pub(super) invalidations: Invalidations,
    pub(super) counters: ClientCounters,
    pub(super) meter: Meter,
    /// The check timeout of flows of the embedded engine that set none; zero means no limit.
    #[cfg(feature = "embedded")]
    pub(super) check_timeout: Duration,
    #[cfg(feature = "remote")]
    pub(super) unlimited: UnlimitedFlowWarnings,
}

/// The check timeout if neither the client nor the flow sets one, with an Agent and in process.
#[cfg(any(feature = "embedded", feature = "remote"))]
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_millis(200);

/// What decides about the flows of a client.
pub(super) enum Backend {
    Disabled,
    #[cfg(feature = "embedded")]
    Embedded(crate::Engine),
    #[cfg(feature = "remote")]
    Remote(crate::remote::Remote),
    #[cfg(feature = "test-util")]
    Scripted(Script),
}

impl Inner {
    pub(super) fn new(backend: Backend) -> Self {
        Self {
            invalidations: backend.invalidations(),
            backend,
            counters: ClientCounters::default(),
            meter: Meter::default(),
            #[cfg(feature = "embedded")]
            check_timeout: CHECK_TIMEOUT,
            #[cfg(feature = "remote")]
            unlimited: UnlimitedFlowWarnings::default(),
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
    pub(super) fn with(backend: Backend) -> Self {
        Self {
            inner: Arc::new(Inner::new(backend)),
        }
    }

    /// Returns the state of a check by the engine, with the budget of the flow. The default of the
    /// budget is the client's check timeout.
    #[cfg(feature = "embedded")]
    #[inline(always)]
    pub(super) fn engine_check(&self, params: &FlowParams<'_>) -> crate::engine::DecideContext {
        crate::engine::DecideContext::new(params.budget(Some(self.inner.check_timeout)))
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
