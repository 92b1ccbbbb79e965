use std::sync::Arc;
use std::time::Duration;

/// What a limiter says about the quota of one flow's key: a rate limiter or a quota scheduler.
///
/// Told by [`Ticket::take_quotas`](crate::Ticket::take_quotas) of flows that
/// [ask for it](crate::FlowParams::quotas).
///
/// ```
/// # #[cfg(feature = "embedded")] {
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
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quota {
    /// The policy of the limiter.
    pub policy_name: Arc<str>,
    /// Which component of the policy it is, such as `root.0`.
    pub component_id: Arc<str>,
    /// How many tokens there are at most, rounded down.
    pub limit: Option<u64>,
    /// How long it takes until all of them are there again; unknown where an Agent decides, and
    /// where none come again.
    pub window: Option<Duration>,
    /// How many tokens are left, rounded down; a flow takes one, unless a label says otherwise.
    pub remaining: u64,
    /// For a flow that was turned away by this limiter, how long until its tokens are there; else
    /// how long until all tokens are. Without that knowledge there is none.
    pub reset: Option<Duration>,
    /// This limiter turned the flow away.
    pub rejected: bool,
}

impl Quota {
    /// From what a limiter tells of its tokens; `None` where it did not look at them.
    #[allow(dead_code)] // Backends know quotas; without one nobody does.
    pub(crate) fn of_tokens(
        policy_name: Arc<str>,
        component_id: Arc<str>,
        (remaining, current): (f64, f64),
        rejected: bool,
    ) -> Option<Self> {
        // What was not looked at has all zeros.
        if remaining == 0.0 && current == 0.0 {
            return None;
        }
        Some(Self {
            policy_name,
            component_id,
            // A cast saturates, and makes zero of what is no number.
            limit: Some((remaining + current) as u64),
            window: None,
            remaining: remaining as u64,
            reset: None,
            rejected,
        })
    }
}
