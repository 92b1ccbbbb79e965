//! The quota of a flow's key.

#[doc(hidden)]
pub mod fields;

use std::sync::Arc;
use std::time::Duration;

use self::fields::QuotaTexts;

/// The quota of a flow's key, as a rate limiter or a quota scheduler reports it.
///
/// [`Ticket::take_quotas`](crate::Ticket::take_quotas) returns the quotas of flows that
/// [request them](crate::FlowParams::quotas).
///
/// ```
/// use std::time::Duration;
/// use tower_aperture::{Check, Decider, Engine, FlowParams, Ticket, Verdict};
///
/// let engine = Engine::builder()
///     .policy_text("per-user", "
/// blueprint: rate-limiting/base
/// policy:
///   policy_name: per-user
///   rate_limiter:
///     bucket_capacity: 60
///     fill_amount: 1
///     parameters: {interval: 1s, limit_by_label_key: user_id}
///     selectors: [{control_point: checkout}]
/// ")
///     .build()?;
/// let params = FlowParams::new().label("user_id", "42").quotas(true);
/// let Check::Ready(Verdict::Accepted(mut ticket)) = engine.decide("checkout", &params) else {
///     unreachable!("the bucket is full");
/// };
/// let quota = &ticket.take_quotas()[0];
/// assert_eq!(&*quota.policy_name, "per-user");
/// assert_eq!((quota.limit, quota.remaining), (Some(60), 59));
/// assert_eq!(quota.window, Some(Duration::from_secs(60)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quota {
    /// The policy of the limiter.
    pub policy_name: Arc<str>,
    /// The component of the policy, such as `root.0`.
    pub component_id: Arc<str>,
    /// The capacity of the bucket in tokens, rounded down.
    pub limit: Option<u64>,
    /// How long an empty bucket takes to fill up; `None` with an Agent, and for a bucket that is
    /// never filled.
    pub window: Option<Duration>,
    /// The tokens left, rounded down; a flow takes one, unless a label sets another cost.
    pub remaining: u64,
    /// For a flow that this limiter rejected, the time until its tokens are available; otherwise
    /// the time until the bucket is full. `None` if unknown.
    pub reset: Option<Duration>,
    /// Whether this limiter rejected the flow.
    pub rejected: bool,
    /// Texts for header fields, which its limiter has rendered before.
    #[doc(hidden)]
    pub texts: QuotaTexts,
}

impl Quota {
    /// Makes a quota of the remaining and the current tokens that a limiter reports. Returns `None`
    /// if the limiter did not read its bucket.
    #[doc(hidden)]
    pub fn from_tokens(
        policy_name: Arc<str>,
        component_id: Arc<str>,
        (remaining, current): (f64, f64),
        rejected: bool,
    ) -> Option<Self> {
        // A bucket that was not read is reported as zeros.
        if remaining == 0.0 && current == 0.0 {
            return None;
        }
        Some(Self {
            policy_name,
            component_id,
            // The cast saturates, and makes zero of NaN.
            limit: Some((remaining + current) as u64),
            window: None,
            remaining: remaining as u64,
            reset: None,
            rejected,
            texts: QuotaTexts::default(),
        })
    }
}
