//! The state of a client's connections to its Agents.

/// The state of a client's connection to its Agent.
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
#[non_exhaustive]
pub enum ConnectionState {
    /// The client has no connection, and no call has needed one.
    Idle,
    /// The client is connecting.
    Connecting,
    /// The Agent answers.
    Ready,
    /// The last attempt failed. The next call tries again; while the Agent is
    /// [given up](AgentStatus::given_up), no call is made.
    TransientFailure,
    /// The client was shut down or disabled.
    Shutdown,
}

/// The status of one Agent; see `ApertureClient::agents`.
///
/// ```
/// use tower_aperture::{AgentStatus, ApertureClient};
///
/// fn count_given_up(client: &ApertureClient) -> usize {
///     let given_up = |agent: &AgentStatus| agent.given_up;
///     client.agents().iter().filter(|agent| given_up(agent)).count()
/// }
/// assert_eq!(count_given_up(&ApertureClient::disabled()), 0);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentStatus {
    /// The address as `host:port`; `None` for a channel that the application supplied.
    pub address: Option<String>,
    /// The state of the connection.
    pub state: ConnectionState,
    /// Whether the client has given up the Agent: it sends no checks until the Agent answers a
    /// probe.
    pub given_up: bool,
    /// The number of checks that wait for a response of this Agent.
    pub in_flight: usize,
}

impl AgentStatus {
    #[doc(hidden)]
    pub const fn new(address: Option<String>, state: ConnectionState) -> Self {
        Self {
            address,
            state,
            given_up: false,
            in_flight: 0,
        }
    }
}
