//! The client and the state that its clones share.

use std::fmt;
use std::sync::Arc;

use super::backend::{AnyBackend, Backend};
use super::counters::ClientCounters;
use crate::flow::Invalidations;
use crate::meter::ClientMeter;

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
    pub(super) backend: AnyBackend,
    /// Shared by all clients of the same engine or the same Agents.
    pub(super) invalidations: Invalidations,
    pub(super) counters: ClientCounters,
    pub(super) meter: ClientMeter,
}

/// The check timeout if neither the client nor the flow sets one, with an Agent and in process.
#[cfg(any(feature = "embedded", feature = "remote"))]
pub(super) const CHECK_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(200);

impl AnyBackend {
    const fn name(&self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Embedded(_) => "embedded",
            Self::Remote(_) => "remote",
            Self::Scripted(_) => "scripted",
        }
    }

    fn invalidations(&self) -> Invalidations {
        match self {
            Self::Disabled => Invalidations::default(),
            Self::Embedded(backend) => backend.invalidations(),
            Self::Remote(backend) => backend.invalidations(),
            Self::Scripted(backend) => backend.invalidations(),
        }
    }
}

impl ApertureClient {
    /// Returns a client without flow control: every flow is unreachable, so it runs unless it is in
    /// ramp mode.
    #[must_use]
    pub fn disabled() -> Self {
        log_event!(warn, "flow control is disabled: flows run unchecked");
        Self::with(AnyBackend::Disabled)
    }

    pub(super) fn with(backend: impl Into<AnyBackend>) -> Self {
        let backend = backend.into();
        Self {
            inner: Arc::new(Inner {
                invalidations: backend.invalidations(),
                backend,
                counters: ClientCounters::default(),
                meter: ClientMeter::default(),
            }),
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
