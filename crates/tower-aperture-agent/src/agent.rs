//! [`Agent`]: what serves an engine, and what it counts and logs.

use std::fmt;
use std::sync::Arc;

use tower_aperture::engine::{Engine, Shared};

use super::auth::{ApiKey, ApiKeys};
use super::drain::Drain;
use super::limits::AgentLimits;
use super::log_throttle::LogThrottle;
use super::memory_budget::MemoryBudget;
use super::metrics::Metrics;

/// Serves an engine over the network. Clones are cheap and share all state.
///
/// See the [crate](crate) for an example.
#[derive(Clone)]
pub struct Agent {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) engine: Engine<Shared>,
    pub(super) keys: ApiKeys,
    pub(super) limits: AgentLimits,
    pub(super) budget: Arc<MemoryBudget>,
    pub(super) drain: Drain,
    pub(super) metrics: Metrics,
    pub(super) unauthenticated_log: LogThrottle,
    pub(super) crowded_out_log: LogThrottle,
    pub(super) turned_away_log: LogThrottle,
    pub(super) unread_log: LogThrottle,
    /// For errors of accepting connections: no file descriptor or no memory.
    pub(super) accept_log: LogThrottle,
}

impl Agent {
    /// Returns the engine that decides, as one that may share its limits, because engines of both
    /// modes can be served.
    #[must_use]
    pub fn engine(&self) -> &Engine<Shared> {
        &self.inner.engine
    }

    /// Replaces the API keys that calls must carry. It takes effect with the next call.
    ///
    /// ```
    /// use tower_aperture::engine::{Engine, Shared};
    /// use tower_aperture_agent::{Agent, ApiKey};
    ///
    /// let agent = Agent::builder(Engine::builder().build()?)
    ///     .api_keys([ApiKey::new("last-years")])
    ///     .build();
    /// agent.replace_api_keys([ApiKey::new("this-years"), ApiKey::new("next-years")]);
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    pub fn replace_api_keys(&self, keys: impl IntoIterator<Item = ApiKey>) {
        self.inner.keys.replace(keys.into_iter().collect());
    }

    /// Begins the graceful shutdown that the [crate](crate#shutdown) describes. Needed only with a
    /// server of your own: [`serve`](Self::serve) does it itself. Further calls have no effect.
    pub fn shutdown(&self) {
        self.inner.drain.begin();
    }

    /// Returns the content of `GET /metrics`, in the OpenMetrics text format.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.inner.metrics.text()
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

impl Inner {
    /// Counts and logs a call without a valid API key.
    pub(super) fn unauthenticated(&self, reason: &str) {
        self.metrics.process.unauthenticated.inc();
        if let Some(calls) = self.unauthenticated_log.due() {
            log_event!(
                warn,
                "{calls} calls were refused as UNAUTHENTICATED: {reason}"
            );
        }
    }

    /// Counts and logs a flow that had to wait when no room was left.
    pub(super) fn crowded_out(&self) {
        self.metrics.process.crowded_out.inc();
        if let Some(flows) = self.crowded_out_log.due() {
            log_event!(
                warn,
                "{flows} flows were rejected: too many wait, or those of their callers hold too much \
                 memory"
            );
        }
    }

    /// Counts and logs a connection that is closed because its caller did not read a response.
    pub(super) fn response_unread(&self) {
        self.metrics.process.unread_closed.inc();
        if let Some(_connections) = self.unread_log.due() {
            log_event!(
                warn,
                "{_connections} connections were closed: their callers did not read the responses"
            );
        }
    }

    /// Logs that the system could not accept a connection.
    pub(super) fn accept_failed(&self, _error: &std::io::Error) {
        if let Some(_times) = self.accept_log.due() {
            log_event!(
                warn,
                "a connection cannot be accepted, {_times} times since this was logged: {_error}"
            );
        }
    }

    /// Counts and logs a connection that is closed because there are too many.
    pub(super) fn turned_away(&self) {
        self.metrics.process.turned_away.inc();
        if let Some(connections) = self.turned_away_log.due() {
            let limit = self.limits.connections;
            log_event!(
                warn,
                "{connections} connections were closed: {limit} are open already, which is the limit"
            );
        }
    }
}
