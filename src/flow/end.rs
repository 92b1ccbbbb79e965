//! Ends of flows, and what came of them.

use std::error::Error;
use std::fmt;

use super::FlowError;

/// What came of ending a flow by hand.
///
/// Ending never fails the caller's work: a flow that could not be ended properly says so here, and
/// in [`ClientStats`](crate::ClientStats).
///
/// ```
/// use tower_aperture::{ApertureClient, FlowParams};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let flow = ApertureClient::disabled().start_flow("checkout", FlowParams::new()).await;
/// let ended = flow.end().await;
/// assert!(ended.error().is_none()); // nobody answered, so there is nothing to end
/// assert!(ended.token_returns().is_empty());
/// # });
/// ```
#[derive(Clone, Debug, Default)]
pub struct EndResponse {
    token_returns: Vec<TokenReturn>,
    error: Option<EndError>,
}

impl EndResponse {
    /// The flow ended; these tokens were given back.
    #[allow(dead_code)] // Without a backend no flow ends.
    pub(crate) fn returned(token_returns: Vec<TokenReturn>) -> Self {
        Self {
            token_returns,
            error: None,
        }
    }

    /// The end could not be delivered.
    #[allow(dead_code)] // Only some backends can fail.
    pub(crate) fn failed(error: EndError) -> Self {
        Self {
            token_returns: Vec::new(),
            error: Some(error),
        }
    }

    /// One entry for each concurrency slot the flow held, in the order of the decisions.
    #[must_use]
    pub fn token_returns(&self) -> &[TokenReturn] {
        &self.token_returns
    }

    /// Why the end could not be delivered, if so.
    #[must_use]
    pub const fn error(&self) -> Option<&EndError> {
        self.error.as_ref()
    }
}

/// What became of one concurrency slot when its flow ended.
///
/// It corresponds to the Agent's `TokenReturnStatus`. See [`EndResponse`] for an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenReturn {
    /// The policy of the component that held the slot.
    pub policy_name: String,
    /// The component, such as `root.0`.
    pub component_id: String,
    /// The key that the component limits by.
    pub label: String,
    /// The slot.
    pub request_id: String,
    /// It was held, and is free now.
    pub returned: bool,
    /// What the Agent said against it.
    pub error: Option<String>,
}

/// Why the end of a flow was not delivered.
///
/// ```
/// use tower_aperture::EndError;
///
/// assert_eq!(EndError::QueueFull.to_string(), "the queue of ends is full");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndError {
    /// Too many ends were waiting for the Agent.
    QueueFull,
    /// The client has been shut down.
    ShutDown,
    /// The call failed, after a second try where one made sense. The
    /// [`source`](Error::source) says why.
    Call(FlowError),
}

impl fmt::Display for EndError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueFull => f.write_str("the queue of ends is full"),
            Self::ShutDown => f.write_str("the client is shut down"),
            Self::Call(_) => f.write_str("the end was not delivered"),
        }
    }
}

impl Error for EndError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Call(error) => Some(error),
            _ => None,
        }
    }
}
