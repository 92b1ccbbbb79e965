//! Warns of flows that an Agent accepted without a limit, as far as its responses show.

use crate::flow::first_seen::FirstSeen;
use crate::messages::check::limiter_decision::LimiterReason;
use crate::messages::check::{CacheLookupStatus, CheckResponse};

/// The most bytes of a name in a log line. Longer names are not logged, because clients may have
/// chosen them.
const MAX_LOGGED_NAME: usize = 256;

/// The control points and limiters that one client has warned of, each once.
#[derive(Debug, Default)]
pub(super) struct UnlimitedFlowWarnings {
    /// The control points with a response without any decision.
    control_points: FirstSeen,
    /// The limiters that read no key, by control point.
    limiters: FirstSeen,
}

impl UnlimitedFlowWarnings {
    /// Inspects the response to an accepted flow. Returns `true` if certainly no component decided
    /// about the flow.
    ///
    /// A response does not distinguish a limiter that was skipped because its label is missing from
    /// one that accepts all flows. Such a limiter is logged as a warning and counts as a decision.
    pub(super) fn inspect(&self, control_point: &str, response: &CheckResponse) -> bool {
        let skipped = LimiterReason::KeyNotFound as i32;
        for decision in &response.limiter_decisions {
            if decision.reason != skipped {
                continue;
            }
            let (policy, component) = (&*decision.policy_name, &*decision.component_id);
            if self.limiters.is_new((control_point, policy, component)) {
                log_event!(
                    warn,
                    control_point = loggable(control_point),
                    policy,
                    component,
                    "a limiter of the Agent looked at no key: either a flow lacks the label that \
                     it limits by and is not limited, or the limiter accepts all flows; the \
                     response does not show which"
                );
            }
        }
        if !response.limiter_decisions.is_empty() || answered_from_cache(response) {
            return false;
        }
        if self.control_points.is_new(control_point) {
            log_event!(
                warn,
                control_point = loggable(control_point),
                "the Agent let a flow in and named no component of a policy that decided about \
                 it: no policy selects the control point and the flow's labels"
            );
        }
        true
    }
}

/// Returns whether the result cache had a value for the flow. The Agent then skips its schedulers.
fn answered_from_cache(response: &CheckResponse) -> bool {
    let lookup = response.cache_lookup_response.as_ref();
    let result = lookup.and_then(|lookup| lookup.result_cache_response.as_ref());
    result.is_some_and(|result| result.lookup_status == CacheLookupStatus::Hit as i32)
}

fn loggable(control_point: &str) -> &str {
    match control_point.len() {
        0..=MAX_LOGGED_NAME => control_point,
        _ => "(a name of more than 256 bytes)",
    }
}
