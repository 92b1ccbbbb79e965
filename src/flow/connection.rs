/// How a client stands with its Agent.
///
/// The names are those of gRPC connectivity. An embedded engine is always `Ready`; a disabled
/// client is always `Shutdown`.
///
/// ```
/// use tower_aperture::{ApertureClient, ConnectionState};
///
/// assert_eq!(ApertureClient::disabled().state(), ConnectionState::Shutdown);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// No connection, and none asked for.
    Idle,
    /// A connection is being made.
    Connecting,
    /// The Agent answers.
    Ready,
    /// The last attempt failed. The next call tries again, or is not made at all while the Agent
    /// is [given up](AgentStatus::given_up).
    TransientFailure,
    /// The client was shut down or disabled.
    Shutdown,
}

/// How one Agent is doing; see [`ApertureClient::agents`](crate::ApertureClient::agents).
///
/// ```
/// use tower_aperture::{AgentStatus, ApertureClient};
///
/// fn away(client: &ApertureClient) -> usize {
///     let given_up = |agent: &AgentStatus| agent.given_up;
///     client.agents().iter().filter(|agent| given_up(agent)).count()
/// }
/// assert_eq!(away(&ApertureClient::disabled()), 0);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentStatus {
    /// `host:port`; `None` for a channel you look after.
    pub address: Option<String>,
    /// How the client stands with it.
    pub state: ConnectionState,
    /// It did not answer for so long that nothing is asked of it until it answers a probe.
    pub given_up: bool,
    /// Checks under way there.
    pub in_flight: usize,
}
