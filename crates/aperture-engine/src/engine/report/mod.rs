//! The full report about a flow: what each component decided, and the labels, meters and caches
//! of the flow.

mod limiter_decision;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aperture_core::{CacheLookup, Denial, RejectReason};

pub use self::limiter_decision::{
    LimiterDecision, LimiterDetails, LimiterReason, QueueOrder, SchedulerDetails, TokensInfo,
};

/// The full report of an [`Engine`](super::Engine) about a flow: Aperture's `CheckResponse`.
///
/// See [`CheckInput`](crate::engine::CheckInput) for an example.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CheckReport {
    /// Why the flow was rejected, or `None` if it may run.
    pub reject_reason: Option<RejectReason>,
    /// The status to send for a rejected flow: the policy's own, or else the default one of the
    /// reason. It is 0 if the flow may run, or if no component rejected it.
    ///
    /// The number of the policy is not checked: it may be no HTTP status.
    pub denied_response_status_code: i32,
    /// How long a rejected flow should wait before it tries again, if that is known.
    pub wait_time: Option<Duration>,
    /// The control point of the flow.
    pub control_point: String,
    /// The services of the flow, in the order of the input.
    pub services: Vec<String>,
    /// The keys of the flow's labels, in byte order.
    pub flow_label_keys: Vec<String>,
    /// The flow's labels as telemetry shows them, and the label `aperture.control_point_type`,
    /// which is always `feature`.
    pub telemetry_flow_labels: BTreeMap<String, String>,
    /// As set in the input.
    pub expect_end: bool,
    /// True if the flow may run and no component decided about it: no policy selects it, or each
    /// limiter was skipped because the flow lacks its label. The flow runs without any limit.
    pub undecided: bool,
    /// The decision of each component that decided about the flow, in unspecified order.
    pub limiter_decisions: Vec<LimiterDecision>,
    /// The classifiers that matched; only for [HTTP requests](super::Engine::check_http).
    pub classifiers: Vec<ClassifierInfo>,
    /// The names of the flux meters that matched, in unspecified order.
    ///
    /// In process, a meter measures the time from the decision to the end of a flow, in fractional
    /// milliseconds. A meter without buckets has the documented ones, from 5 ms to 10 s. (On an
    /// Agent, it gets buckets meant for seconds.)
    pub flux_meters: Vec<Arc<str>>,
    /// The result of the cache lookup. `None` if the caches were not looked up, as for a flow that
    /// was rejected before.
    pub cache_lookup: Option<CacheLookup>,
}

impl CheckReport {
    /// Returns true if the flow may run.
    #[must_use]
    pub const fn accepted(&self) -> bool {
        self.reject_reason.is_none()
    }

    /// Returns the denial of a rejected flow. Leaves out a status that is not valid in HTTP.
    #[doc(hidden)]
    pub fn denial(&self) -> Option<Denial> {
        let code = u16::try_from(self.denied_response_status_code).unwrap_or(0);
        let wait = self.wait_time.unwrap_or_default();
        self.reject_reason
            .map(|reason| Denial::new(reason).denied_code(code).wait(wait))
    }
}

/// A classifier that matched an HTTP request: Aperture's `ClassifierInfo`.
///
/// ```
/// use tower_aperture::engine::{Engine, HttpInput, HttpRequest};
///
/// let engine = Engine::builder()
///     .policy_text("kinds", "
/// resources:
///   flow_control:
///     classifiers:
///     - selectors: [{control_point: ingress}]
///       rules: {kind: {extractor: {from: request.http.headers.x-kind}}}
/// ")
///     .build()?;
/// let request = HttpRequest { headers: &[("x-kind", "mobile")], ..HttpRequest::default() };
/// let report = engine.check_http(&HttpInput::new("ingress").request(request))?;
/// assert_eq!(report.check.classifiers[0].classifier_index, 0);
/// assert_eq!(report.check.telemetry_flow_labels["kind"], "mobile");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassifierInfo {
    /// The policy of the classifier.
    pub policy_name: Arc<str>,
    /// A hash that changes with the content of the policy; otherwise opaque.
    pub policy_hash: Arc<str>,
    /// The index of the classifier in the policy, starting at 0.
    pub classifier_index: u32,
}
