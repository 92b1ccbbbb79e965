//! The rejection of a flow, which callers return and hooks turn into responses.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::flow::{Denial, HttpExtras, RejectReason};

/// The rejection of a flow, for hooks and callers.
///
/// ```
/// use tower_aperture::{Denial, RejectReason, Rejection};
///
/// let rejection = Rejection::new("checkout", Denial::new(RejectReason::RateLimited));
/// assert_eq!(rejection.status(), http::StatusCode::TOO_MANY_REQUESTS);
/// assert_eq!(rejection.to_string(), "flow rejected at control point `checkout`: rate_limited");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    control_point: Arc<str>,
    denial: Denial,
    /// Boxed because few rejections have them.
    extras: Option<Box<HttpExtras>>,
    missing_label: Option<Arc<str>>,
}

impl Rejection {
    /// Returns a rejection, for tests of `on_reject` hooks.
    #[must_use]
    pub fn new(control_point: impl Into<Arc<str>>, denial: Denial) -> Self {
        Self {
            control_point: control_point.into(),
            denial,
            extras: None,
            missing_label: None,
        }
    }

    /// Returns the rejection of a request that lacks a label which its layer
    /// [requires](crate::ApertureLayer::require_label).
    ///
    /// ```
    /// use tower_aperture::{RejectReason, Rejection};
    ///
    /// let rejection = Rejection::missing("checkout", "user_id");
    /// assert_eq!(rejection.reason(), RejectReason::MissingLabel);
    /// assert_eq!(rejection.status(), http::StatusCode::BAD_REQUEST);
    /// assert_eq!(rejection.missing_label(), Some("user_id"));
    /// ```
    #[must_use]
    pub fn missing(control_point: impl Into<Arc<str>>, label: impl Into<Arc<str>>) -> Self {
        Self {
            missing_label: Some(label.into()),
            ..Self::new(control_point, Denial::new(RejectReason::MissingLabel))
        }
    }

    /// Sets the headers and the body of the response, which a check with
    /// [`HttpAttributes`](crate::HttpAttributes) may return.
    #[must_use]
    pub fn with_extras(mut self, extras: HttpExtras) -> Self {
        self.extras = Some(Box::new(extras));
        self
    }

    pub(crate) fn with_optional_extras(mut self, extras: Option<Box<HttpExtras>>) -> Self {
        self.extras = extras;
        self
    }

    /// Returns the headers for the response, `None` unless the layer checks
    /// [by attributes](crate::ApertureLayer::http). A `retry-after` among them has the value of
    /// [`retry_after_secs`](Self::retry_after_secs).
    #[must_use]
    pub fn headers(&self) -> Option<&HeaderMap> {
        self.extras.as_deref().map(HttpExtras::headers)
    }

    /// Returns the body for the response, if the check returned one.
    #[must_use]
    pub fn body(&self) -> Option<&Bytes> {
        let body = self.extras.as_deref().map(HttpExtras::body);
        body.filter(|body| !body.is_empty())
    }

    /// Returns the HTTP status of the response, see [`Denial::status`].
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.denial.status()
    }

    /// Returns why the flow was rejected.
    #[must_use]
    pub const fn reason(&self) -> RejectReason {
        self.denial.reason
    }

    /// Returns the label that the request lacks, if the reason is
    /// [`RejectReason::MissingLabel`].
    #[must_use]
    pub fn missing_label(&self) -> Option<&str> {
        self.missing_label.as_deref()
    }

    /// Returns the suggested time to wait before a retry at full precision, if known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.denial.wait
    }

    /// Returns [`retry_after`](Self::retry_after) in the form of the `retry-after` header: whole
    /// seconds, rounded up, at least 1.
    #[must_use]
    pub fn retry_after_secs(&self) -> Option<u64> {
        let wait = self.denial.wait?;
        let up = u64::from(wait.subsec_nanos() > 0);
        Some(wait.as_secs().saturating_add(up).max(1))
    }

    /// Returns the control point at which the flow was rejected.
    #[must_use]
    pub fn control_point(&self) -> &str {
        &self.control_point
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "flow rejected at control point `{}`: {}",
            self.control_point,
            self.denial.reason.as_str()
        )
    }
}

impl std::error::Error for Rejection {}
