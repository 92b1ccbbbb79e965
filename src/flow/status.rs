use std::fmt;

use http::StatusCode;

/// How the work of a flow went.
///
/// The text forms are those of the `aperture.flow.status` attribute.
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
    /// The work failed, panicked, or was given up before its end.
    Error,
    /// There was no work to judge: the flow was rejected.
    Unset,
}

impl FlowStatus {
    /// The text the Agent expects.
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

/// What is known about a flow when it ends.
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
    /// How the work went.
    pub status: FlowStatus,
    /// The status of the HTTP response, when the flow had one.
    pub http_status: Option<StatusCode>,
}

impl FlowOutcome {
    /// An outcome without an HTTP response.
    #[must_use]
    pub const fn new(status: FlowStatus) -> Self {
        Self {
            status,
            http_status: None,
        }
    }

    /// Adds the status of the HTTP response.
    #[must_use]
    pub const fn http_status(mut self, status: StatusCode) -> Self {
        self.http_status = Some(status);
        self
    }
}
