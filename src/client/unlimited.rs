//! Warns of flows that an Agent let in without a limit, as far as its answers tell.

use crate::flow::first_seen::FirstSeen;
use crate::pb::check::limiter_decision::LimiterReason;
use crate::pb::check::{CacheLookupStatus, CheckResponse};

/// A longer name is not logged: clients may have made it.
const LONGEST_NAME: usize = 256;

/// What the warnings of one client have named, each once.
#[derive(Debug, Default)]
pub(super) struct Unlimited {
    /// Control points that no decision was named for.
    points: FirstSeen,
    /// Limiters that looked at no state, by control point.
    limiters: FirstSeen,
}

impl Unlimited {
    /// Looks at the answer to a flow that may run; true where no component decided about it, for
    /// certain.
    ///
    /// A limiter that was skipped for want of its label looks like one that lets everything pass,
    /// so it is warned of and counts as a decision.
    pub(super) fn look(&self, control_point: &str, response: &CheckResponse) -> bool {
        let skipped = LimiterReason::KeyNotFound as i32;
        for decision in &response.limiter_decisions {
            if decision.reason != skipped {
                continue;
            }
            let (policy, component) = (&*decision.policy_name, &*decision.component_id);
            if self.limiters.is_new((control_point, policy, component)) {
                log_event!(
                    warn,
                    control_point = named(control_point),
                    policy,
                    component,
                    "a limiter of the Agent looked at no key: either a flow lacks the label that \
                     it limits by and is not limited, or it lets everything pass; an answer does \
                     not tell which"
                );
            }
        }
        if !response.limiter_decisions.is_empty() || answered_from_cache(response) {
            return false;
        }
        if self.points.is_new(control_point) {
            log_event!(
                warn,
                control_point = named(control_point),
                "the Agent let a flow in and named no component of a policy that decided about \
                 it: its control point, or the flow's labels, are selected by none"
            );
        }
        true
    }
}

/// Schedulers are not asked then.
fn answered_from_cache(response: &CheckResponse) -> bool {
    let lookup = response.cache_lookup_response.as_ref();
    let result = lookup.and_then(|lookup| lookup.result_cache_response.as_ref());
    result.is_some_and(|result| result.lookup_status == CacheLookupStatus::Hit as i32)
}

#[cfg_attr(not(feature = "tracing"), allow(dead_code))]
fn named(control_point: &str) -> &str {
    match control_point.len() {
        0..=LONGEST_NAME => control_point,
        _ => "(a name of more than 256 bytes)",
    }
}
