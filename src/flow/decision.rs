use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::HttpExtras;

/// What was decided about a flow.
///
/// ```
/// use tower_aperture::{ApertureClient, FlowDecision, FlowParams};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let flow = ApertureClient::disabled().start_flow("checkout", FlowParams::new()).await;
/// assert_eq!(flow.decision(), FlowDecision::Unreachable);
/// # });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowDecision {
    /// The flow may run.
    Accepted,
    /// The flow must not run.
    Rejected,
    /// Nobody answered.
    Unreachable,
}

/// Why a flow was rejected.
///
/// ```
/// use tower_aperture::RejectReason;
///
/// assert_eq!(RejectReason::NoTokens.default_status(), http::StatusCode::SERVICE_UNAVAILABLE);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectReason {
    /// A rate limiter or a concurrency limiter said no.
    RateLimited,
    /// A scheduler had no tokens in time.
    NoTokens,
    /// A sampler left the flow out.
    NotSampled,
    /// The flow asked for ramp mode and no ramp let it in.
    NoMatchingRamp,
    /// Nobody answered, and the flow is not to run in that case.
    Unreachable,
    /// The request has no value for a label that the layer
    /// [requires](crate::ApertureLayer::require_label); nobody was asked.
    MissingLabel,
    /// The body of the request is longer than
    /// [`CaptureBody`](crate::layer::CaptureBody) may read, so policies cannot see all of it; no
    /// check was made.
    BodyTooLarge,
    /// The caller's own deadline, its `grpc-timeout`, passed before the request could run.
    DeadlineExceeded,
    /// The Agent gave no reason, or one this version does not know.
    Unknown,
}

impl RejectReason {
    /// The HTTP status that goes with the reason when the policy names none: 400, 403, 413, 429, 503
    /// or 504.
    #[must_use]
    pub const fn default_status(self) -> StatusCode {
        match self {
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::NoTokens | Self::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
            Self::MissingLabel => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::NotSampled | Self::NoMatchingRamp | Self::Unknown => StatusCode::FORBIDDEN,
        }
    }

    /// A word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::NoTokens => "no_tokens",
            Self::NotSampled => "not_sampled",
            Self::NoMatchingRamp => "no_matching_ramp",
            Self::Unreachable => "unreachable",
            Self::MissingLabel => "missing_label",
            Self::BodyTooLarge => "body_too_large",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Unknown => "unknown",
        }
    }
}

/// A decider's no: the reason, and what the policy says to answer.
///
/// ```
/// use std::time::Duration;
/// use tower_aperture::{Denial, RejectReason};
///
/// let denial = Denial::new(RejectReason::RateLimited).wait(Duration::from_millis(1200));
/// assert_eq!(denial.status(), http::StatusCode::TOO_MANY_REQUESTS);
/// assert_eq!(denial.denied_code(299).status().as_u16(), 299);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Denial {
    /// Why.
    pub reason: RejectReason,
    /// `denied_response_status_code` of the policy, when it has one.
    pub denied_code: Option<u16>,
    /// Suggested time to wait before trying again, when there is one.
    pub wait: Option<Duration>,
}

impl Denial {
    /// A denial without a status code of its own and without a time to wait.
    #[must_use]
    pub const fn new(reason: RejectReason) -> Self {
        Self {
            reason,
            denied_code: None,
            wait: None,
        }
    }

    /// The status code that the policy asks for; 0 means none.
    #[must_use]
    pub const fn denied_code(mut self, code: u16) -> Self {
        self.denied_code = if code == 0 { None } else { Some(code) };
        self
    }

    /// How long to wait before trying again; zero means unknown.
    #[must_use]
    pub const fn wait(mut self, wait: Duration) -> Self {
        self.wait = if wait.is_zero() { None } else { Some(wait) };
        self
    }

    /// The HTTP status to answer with: the policy's own code when it is between 200 and 599, else
    /// the one that goes with the reason.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.denied_code
            .filter(|code| (200..600).contains(code))
            .and_then(|code| StatusCode::from_u16(code).ok())
            .unwrap_or_else(|| self.reason.default_status())
    }
}

/// A rejected flow, as hooks and callers see it.
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
    /// Rare.
    extras: Option<Box<HttpExtras>>,
    missing_label: Option<Arc<str>>,
}

impl Rejection {
    /// Makes a rejection; tests of `on_reject` hooks need that.
    #[must_use]
    pub fn new(control_point: impl Into<Arc<str>>, denial: Denial) -> Self {
        Self {
            control_point: control_point.into(),
            denial,
            extras: None,
            missing_label: None,
        }
    }

    /// Makes the rejection of a request without a label that its layer
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

    /// Sets the headers and the body of the response, as an answer to
    /// [`HttpAttributes`](crate::HttpAttributes) may have them.
    #[must_use]
    pub fn with_extras(mut self, extras: HttpExtras) -> Self {
        self.extras = Some(Box::new(extras));
        self
    }

    pub(crate) fn and_extras(mut self, extras: Option<Box<HttpExtras>>) -> Self {
        self.extras = extras;
        self
    }

    /// The headers that the response is to have: none, unless the layer asks
    /// [by attributes](crate::ApertureLayer::http). A `retry-after` among them says what
    /// [`retry_after_secs`](Self::retry_after_secs) does.
    #[must_use]
    pub fn headers(&self) -> Option<&HeaderMap> {
        self.extras.as_deref().map(HttpExtras::headers)
    }

    /// The body that the response is to have, when there is one.
    #[must_use]
    pub fn body(&self) -> Option<&Bytes> {
        let body = self.extras.as_deref().map(HttpExtras::body);
        body.filter(|body| !body.is_empty())
    }

    /// The HTTP status to answer with, see [`Denial::status`].
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.denial.status()
    }

    /// Why the flow was rejected.
    #[must_use]
    pub const fn reason(&self) -> RejectReason {
        self.denial.reason
    }

    /// The label that the request lacks, where the reason is
    /// [`RejectReason::MissingLabel`].
    #[must_use]
    pub fn missing_label(&self) -> Option<&str> {
        self.missing_label.as_deref()
    }

    /// Suggested time to wait before trying again, at full precision, when there is one.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.denial.wait
    }

    /// [`retry_after`](Self::retry_after) as the `retry-after` header has it: whole seconds,
    /// rounded up, never 0.
    #[must_use]
    pub fn retry_after_secs(&self) -> Option<u64> {
        let wait = self.denial.wait?;
        let up = u64::from(wait.subsec_nanos() > 0);
        Some(wait.as_secs().saturating_add(up).max(1))
    }

    /// Where the flow was rejected.
    #[must_use]
    pub fn control_point(&self) -> &str {
        &self.control_point
    }
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "flow rejected at control point `{}`: {}",
            self.control_point,
            self.denial.reason.as_str()
        )
    }
}

impl std::error::Error for Rejection {}
