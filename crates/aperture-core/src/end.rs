//! The results of ending flows.

use std::error::Error;
use std::fmt;

use super::FlowError;

/// The result of `Flow::end`.
///
/// Ending a flow never fails the caller's work. An end that was not delivered is reported here and
/// counted in [`ClientStats`](crate::ClientStats).
///
/// ```
/// use tower_aperture::{ApertureClient, FlowParams};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let flow = ApertureClient::disabled().start_flow("checkout", FlowParams::new()).await;
/// let ended = flow.end().await;
/// assert!(ended.error().is_none()); // the flow is unreachable and has no end to report
/// assert!(ended.token_returns().is_empty());
/// # });
/// ```
#[derive(Clone, Debug, Default)]
pub struct EndResponse {
    token_returns: Vec<TokenReturn>,
    error: Option<EndError>,
}

impl EndResponse {
    /// Returns the response for a flow that ended and returned these slots.
    #[doc(hidden)]
    pub fn returned(token_returns: Vec<TokenReturn>) -> Self {
        Self {
            token_returns,
            error: None,
        }
    }

    /// Returns the response for an end that was not delivered.
    #[doc(hidden)]
    pub fn failed(error: EndError) -> Self {
        Self {
            token_returns: Vec::new(),
            error: Some(error),
        }
    }

    /// Returns one entry for each concurrency slot that the flow held, in the order of the limiter
    /// decisions.
    #[must_use]
    pub fn token_returns(&self) -> &[TokenReturn] {
        &self.token_returns
    }

    /// Returns why the end was not delivered, or `None` if it was.
    #[must_use]
    pub const fn error(&self) -> Option<&EndError> {
        self.error.as_ref()
    }
}

/// The result of returning one concurrency slot at the end of its flow.
///
/// It corresponds to the Agent's `TokenReturnStatus`. See [`EndResponse`] for an example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenReturn {
    /// The policy of the component that held the slot.
    pub policy_name: String,
    /// The component, such as `root.0`.
    pub component_id: String,
    /// The key that the component limits by.
    pub label: String,
    /// The id of the slot.
    pub request_id: String,
    /// Whether the slot was held until now and is free again.
    pub returned: bool,
    /// The Agent's error text, if the slot could not be returned.
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
    /// The queue of ends to the Agent was full.
    QueueFull,
    /// The client has been shut down.
    ShutDown,
    /// The call failed, after a retry if one could help. The [`source`](Error::source) has the
    /// reason.
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
