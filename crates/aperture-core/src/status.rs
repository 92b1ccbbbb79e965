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
/// let outcome = FlowOutcome::new(FlowStatus::Ok).with_http_status(http::StatusCode::CREATED);
/// assert_eq!(outcome.status, FlowStatus::Ok);
/// assert_eq!(outcome.http_status(), Some(201));
/// assert_eq!(outcome.grpc_status(), None);
/// assert!(!outcome.is_abandoned());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowOutcome {
    /// The status of the work.
    pub status: FlowStatus,
    /// The status of the HTTP response, if the flow had one.
    pub http_status: Option<StatusCode>,
    grpc_status: Option<u8>,
    abandoned: bool,
}

impl FlowOutcome {
    /// Returns an outcome without an HTTP response.
    #[must_use]
    pub const fn new(status: FlowStatus) -> Self {
        Self {
            status,
            http_status: None,
            grpc_status: None,
            abandoned: false,
        }
    }

    /// Returns the status code of the HTTP response, or `None` if the flow had no HTTP response.
    #[must_use]
    pub const fn http_status(&self) -> Option<u16> {
        match self.http_status {
            Some(status) => Some(status.as_u16()),
            None => None,
        }
    }

    /// Returns the gRPC status code of the response, from its head, its trailers or the trailers of
    /// a gRPC-Web body, or `None` if the response had none.
    #[must_use]
    pub const fn grpc_status(&self) -> Option<u8> {
        self.grpc_status
    }

    /// Returns true if the flow was dropped before its end, so that its outcome is not known: the
    /// request was cancelled, a handler panicked, or the client left during the response.
    #[must_use]
    pub const fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Sets the status of the HTTP response.
    #[must_use]
    pub const fn with_http_status(mut self, status: StatusCode) -> Self {
        self.http_status = Some(status);
        self
    }

    /// Sets the gRPC status code of the response.
    #[must_use]
    pub const fn with_grpc_status(mut self, code: u8) -> Self {
        self.grpc_status = Some(code);
        self
    }

    /// Sets whether the flow was dropped before its end. False by default.
    #[must_use]
    pub const fn with_abandoned(mut self, abandoned: bool) -> Self {
        self.abandoned = abandoned;
        self
    }
}
