//! The errors of unreachable flows.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use super::Cause;

/// Why a flow is [unreachable](crate::FlowDecision::Unreachable).
///
/// Such a flow fails open and runs, unless it is in ramp mode or its layer fails closed.
///
/// If a connection failed, the [`source`](Error::source) has the reason, which the text of this
/// error does not repeat. Two errors are equal if their kinds and texts are equal and both or
/// neither are [late](Self::is_late).
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

/// The kind of a [`FlowError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FlowErrorKind {
    /// The check was not answered within its timeout and its grace.
    Timeout,
    /// The client could not connect to the Agent, or the connection broke.
    Unavailable,
    /// The Agent refused the API key: it is missing or wrong.
    Unauthenticated,
    /// The Agent or this crate refused the request as invalid, for example for an empty control
    /// point.
    InvalidRequest,
    /// The client was made by `ApertureClient::disabled`.
    Disabled,
    /// The client has been shut down.
    ShutDown,
    /// The Agent returned any other error.
    Other,
}

impl FlowError {
    /// Returns an error of `kind`, with a `message` that describes the failure.
    #[must_use]
    pub fn new(kind: FlowErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            cause: Cause::NONE,
            late: false,
        }
    }

    /// Sets the error that caused this one. The message must not contain its text, so that reports
    /// print it once.
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

    #[doc(hidden)]
    pub fn with_cause(mut self, cause: Cause) -> Self {
        self.cause = cause;
        self
    }

    /// Sets whether the check was sent and not answered in time.
    #[doc(hidden)]
    pub const fn late(mut self, late: bool) -> Self {
        self.late = late;
        self
    }

    /// Returns the kind of failure.
    #[must_use]
    pub const fn kind(&self) -> FlowErrorKind {
        self.kind
    }

    /// Returns whether the check timed out.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind == FlowErrorKind::Timeout
    }

    /// Returns whether the check was sent to an Agent and not answered within its budget and grace,
    /// or ended by the Agent at its deadline. The Agent may have decided, but its response was late.
    /// Such an error is always a [timeout](Self::is_timeout), and
    /// [`ClientStats::late`](crate::ClientStats::late) counts it.
    ///
    /// ```
    /// use tower_aperture::{FlowError, FlowErrorKind};
    ///
    /// let error = FlowError::new(FlowErrorKind::Timeout, "no connection within 200ms");
    /// assert!(error.is_timeout() && !error.is_late()); // the check was not sent
    /// ```
    #[must_use]
    pub const fn is_late(&self) -> bool {
        self.late
    }

    /// Returns whether the Agent could not be reached.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.kind == FlowErrorKind::Unavailable
    }

    /// Returns whether the Agent refused the API key.
    #[must_use]
    pub fn is_unauthenticated(&self) -> bool {
        self.kind == FlowErrorKind::Unauthenticated
    }
}

impl FlowErrorKind {
    /// Returns the kind as a word for logs and metrics.
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
