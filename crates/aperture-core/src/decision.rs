//! Decisions about flows, and why a flow is rejected.

use std::time::Duration;

use http::StatusCode;

/// The decision about a flow.
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
    /// No decision was reached in time, or at all.
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
    /// A rate limiter or a concurrency limiter rejected the flow.
    RateLimited,
    /// A scheduler had no tokens for the flow in time.
    NoTokens,
    /// A sampler did not select the flow.
    NotSampled,
    /// The flow is in ramp mode and no load ramp accepted it.
    NoMatchingRamp,
    /// The flow is unreachable and fails closed.
    Unreachable,
    /// The request has no value for a label that the layer
    /// requires (see `ApertureLayer::require_label`); no check was made.
    MissingLabel,
    /// The body of the request is longer than
    /// `CaptureBody` may read, so policies would not have all of it;
    /// no check was made.
    BodyTooLarge,
    /// The caller's own deadline, sent as `grpc-timeout`, passed before the request could run.
    DeadlineExceeded,
    /// The Agent gave no reason, or one that this version does not support.
    Unknown,
}

impl RejectReason {
    /// Returns the HTTP status for the reason if the policy sets none: 400, 403, 413, 429, 503 or
    /// 504.
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

    /// Returns the reason as a word for logs and metrics.
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

/// The part of a rejection that a decider supplies: the reason, the status code and the wait.
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
    /// The reason.
    pub reason: RejectReason,
    /// `denied_response_status_code` of the policy, if it sets one.
    pub denied_code: Option<u16>,
    /// The suggested time to wait before a retry, if known.
    pub wait: Option<Duration>,
}

impl Denial {
    /// Returns a denial without a status code of its own and without a wait.
    #[must_use]
    pub const fn new(reason: RejectReason) -> Self {
        Self {
            reason,
            denied_code: None,
            wait: None,
        }
    }

    /// Sets the status code that the policy requests; 0 means none.
    #[must_use]
    pub const fn denied_code(mut self, code: u16) -> Self {
        self.denied_code = if code == 0 { None } else { Some(code) };
        self
    }

    /// Sets the suggested time to wait before a retry; zero means unknown.
    #[must_use]
    pub const fn wait(mut self, wait: Duration) -> Self {
        self.wait = if wait.is_zero() { None } else { Some(wait) };
        self
    }

    /// Returns the HTTP status of the response: the policy's own code if it is between 200 and 599,
    /// else the [default](RejectReason::default_status) for the reason.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.denied_code
            .filter(|code| (200..600).contains(code))
            .and_then(|code| StatusCode::from_u16(code).ok())
            .unwrap_or_else(|| self.reason.default_status())
    }
}
