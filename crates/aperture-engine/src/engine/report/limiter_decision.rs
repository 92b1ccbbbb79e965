//! The decision of one component, as a report has it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::request_id::RequestId;

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
    /// True if the policy is in a [dry run](crate::engine::EngineBuilder::dry_run), so that the decision is
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
