//! The full report about a flow: what each component decided, and the labels, meters and caches
//! of the flow.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::cache::CacheLookupStage;
use super::clock::{Clock, duration};
use super::component_entry::ComponentEntry;
use super::flux_meter::MatchedMeters;
use super::limiters::ComponentDecision;
use super::request_id::RequestId;
use super::stages::{EngineDenial, EngineFlow, Observer, time_left};
use crate::flow::{CacheLookup, Denial, FlowParams, Quota, RejectReason};

/// A check of a flow by an [`Engine`](super::Engine) that asks for the full report, as an Agent's
/// `Check` gives it.
///
/// ```
/// use std::time::Duration;
/// use tower_aperture::engine::{CheckInput, Engine};
/// use tower_aperture::FlowParams;
///
/// let engine = Engine::builder().build()?;
/// let params = FlowParams::new().label("user_id", "42");
/// let input = CheckInput::new("checkout", &params)
///     .services(&["shop.example"])
///     .deadline(Some(Duration::from_millis(200)));
/// let report = engine.check(&input);
/// assert!(report.accepted());
/// assert_eq!(report.flow_label_keys, ["user_id"]);
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CheckInput<'a, 'l> {
    pub(super) control_point: &'a str,
    pub(super) services: &'a [&'a str],
    pub(super) params: &'a FlowParams<'l>,
    pub(super) deadline: Option<Duration>,
    pub(super) expect_end: bool,
    pub(super) cache_lookup: bool,
}

impl<'a, 'l> CheckInput<'a, 'l> {
    /// Creates the input for a flow at a control point, without services. Its deadline is its
    /// [budget](FlowParams::budget).
    #[must_use]
    pub fn new(control_point: &'a str, params: &'a FlowParams<'l>) -> Self {
        Self {
            control_point,
            services: &[],
            params,
            deadline: params.budget(None),
            expect_end: false,
            cache_lookup: params.result_cache_key.is_some() || !params.global_cache_keys.is_empty(),
        }
    }

    pub(super) fn flow(&self) -> EngineFlow<'a, 'l> {
        EngineFlow {
            control_point: self.control_point,
            services: self.services,
            labels: &self.params.labels,
            ramp_mode: self.params.ramp_mode,
            time_left: time_left(self.deadline),
        }
    }

    /// Sets the services that the flow belongs to. Selectors may require one of them.
    #[must_use]
    pub const fn services(mut self, services: &'a [&'a str]) -> Self {
        self.services = services;
        self
    }

    /// Sets whether the caller will report the end of the flow. The default is false.
    #[must_use]
    pub const fn expect_end(mut self, expect_end: bool) -> Self {
        self.expect_end = expect_end;
        self
    }

    /// Sets whether to look up the caches. The default is true if the parameters have cache keys.
    /// Without keys, the [result of the lookup](CheckReport::cache_lookup) is present but empty.
    #[must_use]
    pub const fn cache_lookup(mut self, cache_lookup: bool) -> Self {
        self.cache_lookup = cache_lookup;
        self
    }

    /// Sets how much time is left to decide. `None` means no limit, zero means that no time is
    /// left.
    ///
    /// A time of 10 ms or less counts as none: a limiter that would have to read its state then
    /// rejects the flow.
    #[must_use]
    pub const fn deadline(mut self, left: Option<Duration>) -> Self {
        self.deadline = left;
        self
    }
}

/// The full report of an [`Engine`](super::Engine) about a flow: Aperture's `CheckResponse`.
///
/// See [`CheckInput`] for an example.
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

/// The decision of one component about a flow.
///
/// ```
/// use tower_aperture::engine::{CheckInput, Engine, LimiterDetails};
/// use tower_aperture::FlowParams;
///
/// let engine = Engine::builder()
///     .policy_text("per-user", "
/// circuit:
///   components:
///   - flow_control:
///       rate_limiter:
///         selectors: [{control_point: checkout, agent_group: default}]
///         in_ports:
///           bucket_capacity: {constant_signal: {value: 5}}
///           fill_amount: {constant_signal: {value: 1}}
///         parameters: {interval: 1s, limit_by_label_key: user_id}
/// ")
///     .build()?;
/// let params = FlowParams::new().label("user_id", "42");
/// let report = engine.check(&CheckInput::new("checkout", &params));
/// let decision = &report.limiter_decisions[0];
/// assert_eq!((&*decision.policy_name, &*decision.component_id), ("per-user", "root.0"));
/// let LimiterDetails::RateLimiter { label, tokens } = &decision.details else { unreachable!() };
/// assert_eq!((&**label, tokens.remaining), ("user_id:42", 4.0));
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LimiterDecision {
    /// The policy of the component.
    pub policy_name: Arc<str>,
    /// A hash that changes with the content of the policy; otherwise opaque.
    pub policy_hash: Arc<str>,
    /// The id of the component in the policy: `root.0` is the first one.
    pub component_id: Arc<str>,
    /// True if the component rejected the flow, or would have in a [dry run](Self::dry_run).
    pub dropped: bool,
    /// True if the policy is in a [dry run](super::EngineBuilder::dry_run), so that the decision is
    /// not enforced.
    pub dry_run: bool,
    /// More about the decision.
    pub reason: LimiterReason,
    /// The status that the policy sets for flows that the component rejects; 0 if it sets none.
    pub denied_response_status_code: i32,
    /// When the component would accept the flow. Zero if it does accept it, or if that time is
    /// unknown.
    pub wait_time: Duration,
    /// The details that depend on the kind of component.
    pub details: LimiterDetails,
}

/// An addition to the decision of a component.
///
/// See [`LimiterDecision`] for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimiterReason {
    /// No addition.
    #[default]
    Unspecified,
    /// The flow lacks the label to limit by, or the limiter accepts every flow. No state was read.
    KeyNotFound,
}

/// The part of a decision that depends on the kind of component.
///
/// See [`LimiterDecision`] for an example.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LimiterDetails {
    /// The bucket of a rate limiter.
    RateLimiter {
        /// `<label key>:<label value>`. It is `default` for a limiter without a label key, and
        /// empty if no bucket was read.
        label: Cow<'static, str>,
        /// The tokens of the bucket.
        tokens: TokensInfo,
    },
    /// The slots of a concurrency limiter.
    ConcurrencyLimiter {
        /// As for a rate limiter.
        label: Cow<'static, str>,
        /// The slots before this flow took one.
        tokens: TokensInfo,
        /// Identifies the slot at the end of the flow. A rejected flow has an id as well, without a
        /// slot; `None` if no slots were read.
        request_id: Option<RequestId>,
    },
    /// A sampler.
    Sampler {
        /// `<session label key>:<label value>`. Both may be empty.
        label: String,
    },
    /// The queue and the bucket of a quota scheduler.
    QuotaScheduler {
        /// As for a rate limiter.
        label: Cow<'static, str>,
        /// How the flow was scheduled.
        scheduler: SchedulerDetails,
    },
    /// The queue and the slots of a concurrency scheduler.
    ConcurrencyScheduler {
        /// As for a rate limiter.
        label: Cow<'static, str>,
        /// How the flow was scheduled, with the slots before this flow took one.
        scheduler: SchedulerDetails,
        /// Identifies the slot at the end of the flow; `None` if the flow has none.
        request_id: Option<RequestId>,
    },
    /// The queue and the bucket of a load scheduler.
    LoadScheduler {
        /// How the flow was scheduled.
        scheduler: SchedulerDetails,
    },
}

impl LimiterDetails {
    /// Returns the label and the id of the slot, if the decision has one.
    #[must_use]
    pub fn slot(&self) -> Option<(&str, RequestId)> {
        match self {
            Self::ConcurrencyLimiter {
                label,
                request_id: Some(id),
                ..
            }
            | Self::ConcurrencyScheduler {
                label,
                request_id: Some(id),
                ..
            } => Some((label, *id)),
            _ => None,
        }
    }

    /// Returns the number of bytes of its texts.
    #[doc(hidden)]
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::RateLimiter { label, .. } | Self::ConcurrencyLimiter { label, .. } => label.len(),
            Self::Sampler { label } => label.len(),
            Self::QuotaScheduler {
                label, scheduler, ..
            }
            | Self::ConcurrencyScheduler {
                label, scheduler, ..
            } => label.len() + scheduler.workload_index.len(),
            Self::LoadScheduler { scheduler } => scheduler.workload_index.len(),
        }
    }
}

/// How a scheduler treated a flow.
///
/// See [`LimiterDecision`] for an example of details.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SchedulerDetails {
    /// The workload: its name, its index in the policy, or the value of the flow's workload label.
    pub workload_index: String,
    /// The priority of the flow; 0 if the scheduler was skipped.
    pub priority: f64,
    /// The tokens; `None` if the scheduler was skipped.
    pub tokens: Option<TokensInfo>,
    /// How many tokens the flow asked for, granted or not; 0 if the scheduler was skipped.
    pub requested: f64,
    /// How long the flow waited in the queue.
    pub queued: Duration,
    /// How priorities and fairness moved the flow; `None` if it was not queued, or was rejected.
    pub order: Option<QueueOrder>,
}

/// How far a queue moved a flow compared to the order of arrival, in tokens.
///
/// ```
/// use tower_aperture::engine::{CheckInput, Engine, LimiterDetails, QueueOrder};
/// use tower_aperture::FlowParams;
///
/// let engine = Engine::builder()
///     .policy_text("render", "
/// circuit:
///   components:
///   - flow_control:
///       quota_scheduler:
///         selectors: [{control_point: render}]
///         in_ports:
///           bucket_capacity: {constant_signal: {value: 2}}
///           fill_amount: {constant_signal: {value: 1}}
///         rate_limiter: {interval: 1s}
///         scheduler: {}
/// ")
///     .build()?;
/// let params = FlowParams::new();
/// let report = engine.check(&CheckInput::new("render", &params));
/// let LimiterDetails::QuotaScheduler { scheduler, .. } = &report.limiter_decisions[0].details
///     else { unreachable!() };
/// // Tokens were available at once, so the flow was not queued.
/// let order: Option<QueueOrder> = scheduler.order;
/// assert!(order.is_none());
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct QueueOrder {
    /// Tokens of earlier flows that the flow overtook; negative if later flows overtook it.
    pub overtook: f64,
    /// The same among the flows of its workload that waited behind another one with their fairness
    /// label; `None` for a flow that did not wait behind one.
    pub overtook_in_workload: Option<f64>,
}

/// The tokens of a bucket after a decision; zeros if no bucket was read.
///
/// See [`LimiterDecision`] for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TokensInfo {
    /// Tokens that are left.
    pub remaining: f64,
    /// Tokens that were taken and not filled in again.
    pub current: f64,
    /// Tokens that this flow took: all that it asked for, or none.
    pub consumed: f64,
}

/// Collects the decisions of the components and the result of the cache lookup.
#[derive(Default)]
pub(super) struct Collector<'a, 'p> {
    /// `None` if the caller needs no decisions.
    pub(super) decisions: Option<Vec<LimiterDecision>>,
    pub(super) quotas: Option<Vec<Quota>>,
    pub(super) lookup_stage: Option<CacheLookupStage<'a, 'p>>,
}

impl Observer for Collector<'_, '_> {
    fn look_up(&mut self, flow: &EngineFlow<'_, '_>, clock: &dyn Clock) -> bool {
        self.lookup_stage
            .as_mut()
            .is_some_and(|lookup_stage| lookup_stage.look_up(flow, clock))
    }

    fn on_decision(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        component: &ComponentEntry,
        decision: &ComponentDecision,
    ) {
        if let Some(quotas) = &mut self.quotas {
            quotas.extend(component.quota(decision));
        }
        let Some(decisions) = &mut self.decisions else {
            return;
        };
        decisions.push(LimiterDecision {
            policy_name: Arc::clone(&component.policy_name),
            policy_hash: Arc::clone(&component.policy_hash),
            component_id: Arc::clone(&component.component_id),
            dropped: decision.dropped,
            dry_run: component.is_dry_run(),
            reason: decision.reason,
            denied_response_status_code: component.limiter.denied_code(),
            wait_time: duration(decision.wait),
            details: component.limiter.report(flow, decision),
        });
    }
}

impl Collector<'_, '_> {
    pub(super) fn report(
        self,
        flow: &EngineFlow<'_, '_>,
        flux_meters: &MatchedMeters,
        denied: Option<EngineDenial>,
        expect_end: bool,
    ) -> CheckReport {
        let Self {
            decisions,
            lookup_stage,
            ..
        } = self;
        let mut flow_label_keys: Vec<String> =
            flow.labels.iter().map(|(key, _)| key.to_owned()).collect();
        flow_label_keys.sort_unstable();
        let telemetry_flow_labels = flow
            .labels
            .iter()
            .chain([("aperture.control_point_type", "feature")])
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        CheckReport {
            reject_reason: denied.map(|denied| denied.reason),
            denied_response_status_code: denied.map_or(0, |denied| denied.code),
            wait_time: denied
                .map(|denied| duration(denied.wait))
                .filter(|wait| !wait.is_zero()),
            control_point: flow.control_point.to_owned(),
            services: flow.services.iter().map(ToString::to_string).collect(),
            flow_label_keys,
            telemetry_flow_labels,
            expect_end,
            // Only the caller knows; it sets the field.
            undecided: false,
            limiter_decisions: decisions.unwrap_or_default(),
            classifiers: Vec::new(),
            flux_meters: flux_meters
                .meters()
                .map(|meter| Arc::clone(meter.name()))
                .collect(),
            cache_lookup: lookup_stage.and_then(|lookup_stage| lookup_stage.found),
        }
    }
}
