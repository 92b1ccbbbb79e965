//! Errors of flows that nobody decided about.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use super::Cause;

/// Why nobody answered for a flow.
///
/// A flow that carries one is [unreachable](crate::FlowDecision::Unreachable): it runs, unless
/// ramp mode or the layer's configuration says otherwise.
///
/// When a connection failed, the [`source`](Error::source) says why; the text of the error itself
/// leaves that out. Two errors are equal when kind and texts are, and when both are
/// [late](Self::is_late) or neither is.
///
/// ```
/// use tower_aperture::{FlowError, FlowErrorKind};
///
/// let error = FlowError::new(FlowErrorKind::Timeout, "no answer within 200ms");
/// assert!(error.is_timeout());
/// assert_eq!(error.to_string(), "the check timed out: no answer within 200ms");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowError {
    kind: FlowErrorKind,
    message: Cow<'static, str>,
    cause: Cause,
    late: bool,
}

/// The kinds of [`FlowError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FlowErrorKind {
    /// No answer within the check timeout and its grace.
    Timeout,
    /// The Agent could not be reached, or the connection broke.
    Unavailable,
    /// The Agent answered that the API key is missing or wrong.
    Unauthenticated,
    /// The Agent, or this crate, refused the request as it is: an empty control point, say.
    InvalidRequest,
    /// The client was made by [`ApertureClient::disabled`](crate::ApertureClient::disabled).
    Disabled,
    /// The client has been shut down.
    ShutDown,
    /// Any other answer that is not a decision.
    Other,
}

impl FlowError {
    /// Makes an error of `kind`; `message` says what happened.
    #[must_use]
    pub fn new(kind: FlowErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            cause: Cause::NONE,
            late: false,
        }
    }

    /// Adds the error that was the reason for this one. Its text must not be part of the message,
    /// so that it is printed once.
    ///
    /// ```
    /// use std::error::Error;
    /// use std::io;
    /// use tower_aperture::{FlowError, FlowErrorKind};
    ///
    /// let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    /// let error = FlowError::new(FlowErrorKind::Unavailable, "").with_source(refused);
    /// assert_eq!(error.to_string(), "the agent is unavailable");
    /// assert_eq!(error.source().unwrap().to_string(), "connection refused");
    /// ```
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Cause::new(source);
        self
    }

    #[allow(dead_code)] // Only an Agent's connections fail.
    pub(crate) fn with_cause(mut self, cause: Cause) -> Self {
        self.cause = cause;
        self
    }

    /// Marks the error of a check that was sent and not answered in time.
    #[allow(dead_code)] // Only an Agent's answers are late.
    pub(crate) const fn late(mut self, late: bool) -> Self {
        self.late = late;
        self
    }

    /// What kind of failure it was.
    #[must_use]
    pub const fn kind(&self) -> FlowErrorKind {
        self.kind
    }

    /// No answer came within the check timeout.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind == FlowErrorKind::Timeout
    }

    /// Returns `true` for a check that was sent to an Agent and not answered within its budget and
    /// grace, or that the Agent itself ended at its deadline. The Agent may have decided; the answer
    /// was late. Such an error is always a [timeout](Self::is_timeout), and
    /// [`ClientStats::late`](crate::ClientStats::late) counts it.
    ///
    /// ```
    /// use tower_aperture::{FlowError, FlowErrorKind};
    ///
    /// let error = FlowError::new(FlowErrorKind::Timeout, "no connection within 200ms");
    /// assert!(error.is_timeout() && !error.is_late()); // nothing was sent
    /// ```
    #[must_use]
    pub const fn is_late(&self) -> bool {
        self.late
    }

    /// The Agent could not be reached.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.kind == FlowErrorKind::Unavailable
    }

    /// The API key is missing or wrong.
    #[must_use]
    pub fn is_unauthenticated(&self) -> bool {
        self.kind == FlowErrorKind::Unauthenticated
    }
}

impl FlowErrorKind {
    /// A word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Unauthenticated => "unauthenticated",
            Self::InvalidRequest => "invalid_request",
            Self::Disabled => "disabled",
            Self::ShutDown => "shut_down",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for FlowErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "the check timed out",
            Self::Unavailable => "the agent is unavailable",
            Self::Unauthenticated => "the agent refused the API key",
            Self::InvalidRequest => "the request is not valid",
            Self::Disabled => "flow control is disabled",
            Self::ShutDown => "the client is shut down",
            Self::Other => "the agent gave no decision",
        })
    }
}

impl fmt::Display for FlowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl Error for FlowError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.get()
    }
}
