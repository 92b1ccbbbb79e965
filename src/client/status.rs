//! The state of a client: its connections, its counters and its end.

use std::time::Duration;

use super::backend::{AnyBackend, Backend};
use super::shared::ApertureClient;
use crate::flow::{AgentStatus, ClientStats, ConnectionState};

impl ApertureClient {
    /// Returns the state of the connection to the Agent; of several Agents, the best state. Does no
    /// I/O.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        match &self.inner.backend {
            AnyBackend::Disabled => ConnectionState::Shutdown,
            AnyBackend::Embedded(backend) => backend.state(),
            AnyBackend::Remote(backend) => backend.state(),
            AnyBackend::Scripted(backend) => backend.state(),
        }
    }

    /// Returns the status of each Agent, in the order of their addresses. Does no I/O. Empty for
    /// clients without an Agent.
    ///
    /// ```
    /// use tower_aperture::{ApertureClient, ConnectionState};
    ///
    /// # #[cfg(feature = "remote")] {
    /// let client = ApertureClient::builder()
    ///     .addresses(["agent-0:8089", "agent-1:8089"])
    ///     .insecure(true)
    ///     .build()?;
    /// let agents = client.agents();
    /// assert_eq!(agents[1].address.as_deref(), Some("agent-1:8089"));
    /// assert_eq!(agents[1].state, ConnectionState::Idle);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn agents(&self) -> Vec<AgentStatus> {
        match &self.inner.backend {
            AnyBackend::Disabled => Vec::new(),
            AnyBackend::Embedded(backend) => backend.agents(),
            AnyBackend::Remote(backend) => backend.agents(),
            AnyBackend::Scripted(backend) => backend.agents(),
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
            AnyBackend::Disabled => false,
            AnyBackend::Embedded(backend) => backend.wait_ready(timeout).await,
            AnyBackend::Remote(backend) => backend.wait_ready(timeout).await,
            AnyBackend::Scripted(backend) => backend.wait_ready(timeout).await,
        }
    }

    /// Returns the counters of the client.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        let mut stats = self.inner.counters.snapshot();
        match &self.inner.backend {
            AnyBackend::Disabled => {}
            AnyBackend::Embedded(backend) => backend.add_stats(&mut stats),
            AnyBackend::Remote(backend) => backend.add_stats(&mut stats),
            AnyBackend::Scripted(backend) => backend.add_stats(&mut stats),
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
            AnyBackend::Disabled => true,
            AnyBackend::Embedded(backend) => backend.shutdown(timeout).await,
            AnyBackend::Remote(backend) => backend.shutdown(timeout).await,
            AnyBackend::Scripted(backend) => backend.shutdown(timeout).await,
        }
    }
}
