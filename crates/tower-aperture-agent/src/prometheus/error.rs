//! The error of creating a [`Prometheus`](super::Prometheus).

use std::fmt;

use aperture_core::Cause;

/// Why a Prometheus cannot be used: an invalid address, or no certificates to trust. The
/// [`source`](std::error::Error::source) is the underlying error, if there is one.
///
/// ```
/// use tower_aperture_agent::{Prometheus, PrometheusError};
///
/// let error: PrometheusError = Prometheus::new("prometheus:9090").unwrap_err();
/// assert!(error.to_string().contains("http://"), "{error}");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrometheusError {
    message: &'static str,
    cause: Cause,
}

impl PrometheusError {
    pub(super) const fn new(message: &'static str) -> Self {
        Self {
            message,
            cause: Cause::NONE,
        }
    }

    pub(super) fn with(
        message: &'static str,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            message,
            cause: Cause::new(cause),
        }
    }
}

impl fmt::Display for PrometheusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl std::error::Error for PrometheusError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.get()
    }
}
