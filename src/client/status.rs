//! The state of a client: its connections, its counters and its end.

use std::time::Duration;

use super::shared::{ApertureClient, Backend};
use crate::flow::{AgentStatus, ClientStats, ConnectionState};

impl ApertureClient {
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
