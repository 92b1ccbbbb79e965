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
    /// The last attempt failed; the next call tries again.
    TransientFailure,
    /// The client was shut down or disabled.
    Shutdown,
}
