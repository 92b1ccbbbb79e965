//! The status and the outcome of a flow.

use std::fmt;

use http::StatusCode;

/// The status with which a flow ends.
///
/// Its text forms are those of the `aperture.flow.status` attribute.
///
/// ```
/// use tower_aperture::FlowStatus;
///
/// assert_eq!(FlowStatus::default().to_string(), "OK");
/// assert_eq!(FlowStatus::Error.to_string(), "Error");
/// assert_eq!(FlowStatus::Unset.to_string(), "Unset");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FlowStatus {
    /// The work succeeded.
    #[default]
    Ok,
    /// The work failed, panicked, or was abandoned before its end.
    Error,
    /// The flow was rejected, so that no work ran.
    Unset,
}

impl FlowStatus {
    /// Returns the text that the Agent expects.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Error => "Error",
            Self::Unset => "Unset",
        }
    }
}

impl fmt::Display for FlowStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The outcome of a flow at its end.
///
/// ```
/// use tower_aperture::{FlowOutcome, FlowStatus};
///
/// let outcome = FlowOutcome::new(FlowStatus::Ok).http_status(http::StatusCode::CREATED);
/// assert_eq!(outcome.status, FlowStatus::Ok);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowOutcome {
    /// The status of the work.
    pub status: FlowStatus,
    /// The status of the HTTP response, if the flow had one.
    pub http_status: Option<StatusCode>,
}

impl FlowOutcome {
    /// Returns an outcome without an HTTP response.
    #[must_use]
    pub const fn new(status: FlowStatus) -> Self {
        Self {
            status,
            http_status: None,
        }
    }

    /// Sets the status of the HTTP response.
    #[must_use]
    pub const fn http_status(mut self, status: StatusCode) -> Self {
        self.http_status = Some(status);
        self
    }
}
