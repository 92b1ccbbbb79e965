use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::cache::CacheLookupStage;
use super::clock::{Clock, duration};
use super::flux_meter::Matched;
use super::limiters::Decided;
use super::placed::Placed;
use super::request_id::RequestId;
use super::stages::{Denied, Flow, Observer, time_left};
use crate::flow::{CacheLookup, Denial, FlowParams, Quota, RejectReason};

/// A question to an [`Engine`](super::Engine) that wants the whole answer, as an Agent's `Check`
/// gives it.
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
    /// A flow at a control point, without services; its deadline is its
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

    pub(super) fn flow(&self) -> Flow<'a, 'l> {
        Flow {
            control_point: self.control_point,
            services: self.services,
            labels: &self.params.labels,
            ramp_mode: self.params.ramp_mode,
            time_left: time_left(self.deadline),
        }
    }

    /// The services that the flow belongs to; selectors may ask for one of them.
    #[must_use]
    pub const fn services(mut self, services: &'a [&'a str]) -> Self {
        self.services = services;
        self
    }

    /// The asker promises to tell the end of the flow.
    #[must_use]
    pub const fn expect_end(mut self, expect_end: bool) -> Self {
        self.expect_end = expect_end;
        self
    }

    /// Whether to look in the caches for the keys of the parameters: by default where there are
    /// any. Without keys, what is looked up is [there](CheckReport::cache_lookup) and empty.
    #[must_use]
    pub const fn cache_lookup(mut self, cache_lookup: bool) -> Self {
        self.cache_lookup = cache_lookup;
        self
    }

    /// How much time is left to decide; `None` is no limit, zero is none left.
    ///
    /// Ten milliseconds or less count as none: a limiter that would have to look at its state
    /// then rejects.
    #[must_use]
    pub const fn deadline(mut self, left: Option<Duration>) -> Self {
        self.deadline = left;
        self
    }
}

/// All that an [`Engine`](super::Engine) has to say about a flow: Aperture's `CheckResponse`.
///
/// See [`CheckInput`] for an example.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CheckReport {
    /// Why the flow was rejected; `None` when it may run.
    pub reject_reason: Option<RejectReason>,
    /// The status to answer a rejected flow with: the policy's own, or else the usual one of the
    /// reason. 0 when the flow may run, or when no component rejected it.
    ///
    /// Whatever number the policy has is here, an HTTP status or not.
    pub denied_response_status_code: i32,
    /// How long a rejected flow should wait before it tries again, when that is known.
    pub wait_time: Option<Duration>,
    /// The control point asked about.
    pub control_point: String,
    /// The services asked about, in that order.
    pub services: Vec<String>,
    /// The keys of the flow's labels, ordered by bytes.
    pub flow_label_keys: Vec<String>,
    /// The flow's labels as telemetry shows them, with the kind of the control point:
    /// `aperture.control_point_type` is `feature`.
    pub telemetry_flow_labels: BTreeMap<String, String>,
    /// As the question had it.
    pub expect_end: bool,
    /// The flow may run, and no component decided about it: no policy selects it, or each limiter
    /// was skipped because the flow lacks its label. It runs without any limit.
    pub undecided: bool,
    /// What each component decided that was asked, in no promised order.
    pub limiter_decisions: Vec<LimiterDecision>,
    /// The classifiers that matched; only of [HTTP requests](super::Engine::check_http).
    pub classifiers: Vec<ClassifierInfo>,
    /// The flux meters that matched, by name, in no promised order.
    ///
    /// In process they measure the time from the answer to the end of a flow, in milliseconds and
    /// parts of them. One without buckets has the documented ones, from 5 ms to 10 s. (There, it
    /// gets buckets that were made for seconds.)
    pub flux_meters: Vec<Arc<str>>,
    /// What the caches had, when they were asked: not for a flow that was rejected before.
    pub cache_lookup: Option<CacheLookup>,
}

impl CheckReport {
    /// Whether the flow may run.
    #[must_use]
    pub const fn accepted(&self) -> bool {
        self.reject_reason.is_none()
    }

    /// The no of a rejected flow. A status outside of what HTTP knows is no status.
    pub(crate) fn denial(&self) -> Option<Denial> {
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
    /// Changes with the policy's content; opaque otherwise.
    pub policy_hash: Arc<str>,
    /// Which classifier of the policy: 0 is the first one.
    pub classifier_index: u32,
}

/// What one component decided about a flow.
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
    /// Changes with the policy's content; opaque otherwise.
    pub policy_hash: Arc<str>,
    /// Which component of the policy: `root.0` is the first one.
    pub component_id: Arc<str>,
    /// The component turned the flow away, or would have in a [dry run](Self::dry_run).
    pub dropped: bool,
    /// The policy is in a [dry run](super::EngineBuilder::dry_run): nothing follows.
    pub dry_run: bool,
    /// What the component has to add.
    pub reason: LimiterReason,
    /// The component's own status for flows it turns away; 0 when it has none.
    pub denied_response_status_code: i32,
    /// When it would let the flow in; zero when it does, or when it cannot tell.
    pub wait_time: Duration,
    /// What depends on the kind of component.
    pub details: LimiterDetails,
}

/// What a component adds to its decision.
///
/// See [`LimiterDecision`] for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimiterReason {
    /// Nothing.
    #[default]
    Unspecified,
    /// The flow has no label to limit by, or the limiter lets everything pass: no state was
    /// looked at.
    KeyNotFound,
}

/// The part of a decision that depends on the kind of component.
///
/// See [`LimiterDecision`] for an example.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LimiterDetails {
    /// A rate limiter's bucket.
    RateLimiter {
        /// `<label key>:<label value>`, `default` for a limiter without key, empty where no
        /// bucket was looked at.
        label: Cow<'static, str>,
        /// What is in the bucket.
        tokens: TokensInfo,
    },
    /// A concurrency limiter's slots.
    ConcurrencyLimiter {
        /// As for a rate limiter.
        label: Cow<'static, str>,
        /// Slots before this flow took one.
        tokens: TokensInfo,
        /// Names the slot at the flow's end. A flow that was turned away has one too, which
        /// nothing is held under; `None` where no slots were looked at.
        request_id: Option<RequestId>,
    },
    /// A sampler.
    Sampler {
        /// `<session label key>:<label value>`, both possibly empty.
        label: String,
    },
    /// A quota scheduler's queue and bucket.
    QuotaScheduler {
        /// As for a rate limiter.
        label: Cow<'static, str>,
        /// How the flow was queued.
        scheduler: SchedulerDetails,
    },
    /// A concurrency scheduler's queue and slots.
    ConcurrencyScheduler {
        /// As for a rate limiter.
        label: Cow<'static, str>,
        /// How the flow was queued; slots before this flow took one.
        scheduler: SchedulerDetails,
        /// Names the slot at the flow's end; `None` when there is none.
        request_id: Option<RequestId>,
    },
    /// A load scheduler's queue and bucket.
    LoadScheduler {
        /// How the flow was queued.
        scheduler: SchedulerDetails,
    },
}

impl LimiterDetails {
    /// The label and name of the slot, where there is one.
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

    /// Returns the bytes of its texts.
    #[cfg(feature = "server")]
    pub(crate) fn text_bytes(&self) -> usize {
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

/// How a scheduler saw a flow.
///
/// See [`LimiterDecision`] for an example of details.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SchedulerDetails {
    /// The workload: its name, its index in the policy, or what the flow's workload label says.
    pub workload_index: String,
    /// How much the flow weighed; 0 where it was not looked at.
    pub priority: f64,
    /// The tokens; `None` when the flow was let through without asking for any.
    pub tokens: Option<TokensInfo>,
    /// How many tokens the flow asked for, granted or not; 0 where it was not looked at.
    pub requested: f64,
    /// How long it waited in the queue.
    pub queued: Duration,
    /// What priorities and fairness did to its turn; `None` for a flow that was not queued, or that
    /// was dropped.
    pub order: Option<QueueOrder>,
}

/// By how much a queue changed the turn of a flow, compared to the order of arrival, in tokens.
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
/// // There were tokens at once, and so the flow was not queued.
/// let order: Option<QueueOrder> = scheduler.order;
/// assert!(order.is_none());
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct QueueOrder {
    /// Tokens of earlier flows that the flow overtook; negative where later ones overtook it.
    pub overtook: f64,
    /// The same among the flows of its workload that waited behind another one of their fairness
    /// label; `None` for a flow that did not.
    pub overtook_in_workload: Option<f64>,
}

/// Tokens of a bucket after a decision; zeros where no bucket was looked at.
///
/// See [`LimiterDecision`] for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TokensInfo {
    /// Left to take.
    pub remaining: f64,
    /// Taken and not filled up again.
    pub current: f64,
    /// What this flow took: as many as it asked for, or none.
    pub consumed: f64,
}

/// Collects what the components decide, and what the caches have.
#[derive(Default)]
pub(super) struct Collector<'a, 'p> {
    /// `None` when nobody wants to know.
    pub(super) decisions: Option<Vec<LimiterDecision>>,
    pub(super) quotas: Option<Vec<Quota>>,
    pub(super) lookup_stage: Option<CacheLookupStage<'a, 'p>>,
}

impl Observer for Collector<'_, '_> {
    fn look_up(&mut self, flow: &Flow<'_, '_>, clock: &dyn Clock) -> bool {
        self.lookup_stage
            .as_mut()
            .is_some_and(|lookup_stage| lookup_stage.look_up(flow, clock))
    }

    fn decided(&mut self, flow: &Flow<'_, '_>, by: &Placed, decided: &Decided) {
        if let Some(quotas) = &mut self.quotas {
            quotas.extend(by.quota(decided));
        }
        let Some(decisions) = &mut self.decisions else {
            return;
        };
        decisions.push(LimiterDecision {
            policy_name: Arc::clone(&by.policy_name),
            policy_hash: Arc::clone(&by.policy_hash),
            component_id: Arc::clone(&by.component_id),
            dropped: decided.dropped,
            dry_run: by.is_dry(),
            reason: decided.reason,
            denied_response_status_code: by.limiter.denied_code(),
            wait_time: duration(decided.wait),
            details: by.limiter.report(flow, decided),
        });
    }
}

impl Collector<'_, '_> {
    pub(super) fn report(
        self,
        flow: &Flow<'_, '_>,
        flux_meters: &Matched,
        denied: Option<Denied>,
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
            // Known to the caller, where it may be.
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
