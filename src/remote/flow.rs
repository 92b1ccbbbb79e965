//! A flow that an Agent has decided, until its end and its span are queued.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::end_call::EndCall;
use super::end_job::{EndJob, holds_slot};
use super::response::AgentResponse;
use super::state::{OpenFlow, Remote, RuntimeState};
use super::transport::PooledConnection;
use crate::flow::{
    Denial, EndError, EndResponse, FlowOutcome, FlowStatus, HttpExtras, Quota, RejectReason,
};
use crate::messages::check::check_response::{DecisionType, RejectReason as Reason};
use crate::messages::check::limiter_decision::Details;
use crate::messages::check::{CacheLookupResponse, CheckResponse, LimiterDecision};
use crate::telemetry::{FlowSpan, MAX_RESPONSE_BYTES, OpenSpan};

/// A flow that an Agent has decided. If it is dropped without an end, it ends with status `Error`.
pub(crate) struct RemoteFlow {
    /// `Some` until the flow ends.
    pub(super) decided: Option<Box<DecidedFlow>>,
}

pub(super) struct DecidedFlow {
    remote: Remote,
    runtime: Arc<RuntimeState>,
    control_point: String,
    pub(super) response: AgentResponse,
    origin: FlowOrigin,
    extras: Option<Box<HttpExtras>>,
}

/// The Agent and the connection that the decision came from, and the span of the flow.
pub(super) struct FlowOrigin {
    pub(super) agent_index: usize,
    /// The end is sent on this connection. `None` for a flow that holds no slot.
    pub(super) connection: Option<Arc<PooledConnection>>,
    /// `None` for a flow that holds neither a slot nor a span.
    pub(super) open_flow: Option<OpenFlow>,
    /// `None` if no spans are sent.
    pub(super) span: Option<FlowSpan>,
}

impl RemoteFlow {
    pub(super) fn new(
        remote: Remote,
        runtime: Arc<RuntimeState>,
        control_point: String,
        response: AgentResponse,
        mut origin: FlowOrigin,
        extras: Option<Box<HttpExtras>>,
    ) -> Self {
        if !holds_slot(response.decision()) {
            origin.connection = None;
            if origin.span.is_none() {
                origin.open_flow = None;
            }
        }
        Self {
            decided: Some(Box::new(DecidedFlow {
                remote,
                runtime,
                control_point,
                response,
                origin,
                extras,
            })),
        }
    }

    pub(crate) fn take_extras(&mut self) -> Option<Box<HttpExtras>> {
        self.decided.as_mut()?.extras.take()
    }

    /// Returns the control point of the check.
    pub(crate) fn control_point(&self) -> &str {
        self.decided
            .as_ref()
            .map_or("", |decided| &decided.control_point)
    }

    /// Returns the response of the Agent with the fields that the client reads.
    pub(crate) fn decision(&self) -> &CheckResponse {
        static EMPTY: std::sync::LazyLock<CheckResponse> =
            std::sync::LazyLock::new(CheckResponse::default);
        // Only an end takes the response, and an end consumes the flow.
        self.decided
            .as_ref()
            .map_or_else(|| &*EMPTY, |decided| decided.response.decision())
    }

    /// Takes the values that the caches returned out of the response. The span of the flow then
    /// does not send them back.
    pub(crate) fn take_lookup(&mut self) -> Option<CacheLookupResponse> {
        self.decided.as_mut()?.response.take_lookup()
    }

    /// Returns the rejection, if the Agent rejected the flow.
    pub(crate) fn denial(&self) -> Option<Denial> {
        denial(self.decision())
    }

    /// Returns how long the Agent took to decide, by its own clock, for a flow that went through a
    /// scheduler.
    pub(crate) fn queue_time(&self) -> Option<Duration> {
        let response = self.decision();
        let mut decisions = response.limiter_decisions.iter();
        let scheduled = decisions.any(|decision| {
            matches!(
                decision.details,
                Some(
                    Details::LoadSchedulerInfo(_)
                        | Details::QuotaSchedulerInfo(_)
                        | Details::ConcurrencySchedulerInfo(_)
                )
            )
        });
        let (start, end) = (response.start?, response.end?);
        let nanos = |time: prost_types::Timestamp| {
            i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
        };
        let took = u64::try_from(nanos(end) - nanos(start)).ok()?;
        scheduled.then(|| Duration::from_nanos(took))
    }

    /// Returns the tokens that limiters reported. An Agent does not report how their buckets are
    /// filled.
    pub(crate) fn quotas(&self) -> Vec<Quota> {
        let decisions = self.decision().limiter_decisions.iter();
        decisions.filter_map(quota).collect()
    }

    /// Queues the end and the span for the worker. Never blocks.
    pub(crate) fn end(mut self, outcome: FlowOutcome) {
        if let Some(decided) = self.decided.take() {
            decided.end(outcome);
        }
    }

    /// Like [`end`](Self::end). Returns a future of the Agent's response to the end.
    pub(crate) fn end_and_wait(mut self, outcome: FlowOutcome) -> EndCall {
        match self.decided.take() {
            Some(decided) => decided.end_and_wait(outcome),
            None => EndCall::ready(EndResponse::default()),
        }
    }

    /// Ends a flow whose caller left before the decision arrived.
    ///
    /// No span is sent: no work ran, and a workload that takes no time would mislead a scheduler
    /// that measures latency.
    pub(super) fn end_abandoned(mut self) {
        if let Some(mut decided) = self.decided.take()
            && let Some(job) = decided.take_end_job()
        {
            let _ = queue_end(&decided.runtime, job); // a lost end is counted there
        }
    }
}

impl Drop for RemoteFlow {
    fn drop(&mut self) {
        if let Some(decided) = self.decided.take() {
            decided.end(FlowOutcome::new(FlowStatus::Error));
        }
    }
}

/// Omits the response: its labels may identify people.
impl fmt::Debug for RemoteFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteFlow")
            .field("denial", &self.denial())
            .finish_non_exhaustive()
    }
}

impl DecidedFlow {
    fn take_end_job(&mut self) -> Option<EndJob> {
        let refs = self.response.take_inflight_refs();
        // Without a slot there is nothing to report and no worker to wake.
        (!refs.is_empty()).then(|| {
            EndJob::new(
                std::mem::take(&mut self.control_point),
                self.origin.agent_index,
                self.origin.connection.take(),
                refs,
            )
        })
    }

    fn end(mut self: Box<Self>, outcome: FlowOutcome) {
        if let Some(job) = self.take_end_job() {
            let _ = queue_end(&self.runtime, job); // a lost end is counted there
        }
        self.record(outcome);
    }

    fn end_and_wait(mut self: Box<Self>, outcome: FlowOutcome) -> EndCall {
        let call = match self.take_end_job() {
            None => EndCall::ready(EndResponse::default()),
            Some(mut job) => {
                let answer = job.response_receiver();
                match queue_end(&self.runtime, job) {
                    Ok(()) => EndCall::waiting(
                        answer,
                        self.remote.shared().config.background_timeout(),
                        Arc::clone(&self.runtime.shared),
                    ),
                    Err(error) => EndCall::ready(EndResponse::failed(error)),
                }
            }
        };
        self.record(outcome);
        call
    }

    fn record(self: Box<Self>, outcome: FlowOutcome) {
        let Self {
            runtime,
            response,
            origin: FlowOrigin {
                span, open_flow, ..
            },
            remote,
            ..
        } = *self;
        if let Some(span) = span {
            let response = response.into_encoded(MAX_RESPONSE_BYTES);
            let queued = span.end(outcome, &response, |span| {
                // Queued in the same runtime as the end.
                runtime
                    .shared
                    .enqueue(Some(&runtime), span, RuntimeState::push_span)
            });
            if queued.is_err() {
                runtime.shared.counters.spans_dropped.add(1);
            }
        }
        // Last, because a worker may end once no flow and no clone of the client is left.
        drop(open_flow);
        drop(remote);
    }
}

/// Queues an end, and counts it as dropped if no queue accepts it.
fn queue_end(runtime: &Arc<RuntimeState>, job: EndJob) -> Result<(), EndError> {
    let queued = runtime
        .shared
        .enqueue(Some(runtime), job, RuntimeState::push_end);
    queued.inspect_err(|_| runtime.shared.counters.ends_dropped.add(1))
}

fn quota(decision: &LimiterDecision) -> Option<Quota> {
    let tokens = match decision.details.as_ref()? {
        Details::RateLimiterInfo(info) => info.tokens_info?,
        Details::QuotaSchedulerInfo(info) => info.tokens_info?,
        _ => return None,
    };
    let mut quota = Quota::from_tokens(
        decision.policy_name.as_str().into(),
        decision.component_id.as_str().into(),
        (tokens.remaining, tokens.current),
        decision.dropped,
    )?;
    let wait = decision.wait_time.filter(|_| decision.dropped);
    quota.reset = wait
        .and_then(|wait| Duration::try_from(wait).ok())
        .filter(|wait| !wait.is_zero());
    Some(quota)
}

fn denial(response: &CheckResponse) -> Option<Denial> {
    if response.decision_type == DecisionType::Accepted as i32 {
        return None;
    }
    let reason = match Reason::try_from(response.reject_reason) {
        Ok(Reason::RateLimited) => RejectReason::RateLimited,
        Ok(Reason::NoTokens) => RejectReason::NoTokens,
        Ok(Reason::NotSampled) => RejectReason::NotSampled,
        Ok(Reason::NoMatchingRamp) => RejectReason::NoMatchingRamp,
        Ok(Reason::None) | Err(_) => RejectReason::Unknown,
    };
    let code = u16::try_from(response.denied_response_status_code).unwrap_or(0);
    let wait = response
        .wait_time
        .and_then(|wait| Duration::try_from(wait).ok())
        .unwrap_or(Duration::ZERO);
    Some(Denial::new(reason).denied_code(code).wait(wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_has_the_reason_code_and_full_wait() {
        let response = CheckResponse {
            decision_type: DecisionType::Rejected as i32,
            reject_reason: Reason::NoTokens as i32,
            denied_response_status_code: 418,
            wait_time: Some(prost_types::Duration {
                seconds: 1,
                nanos: 750_000_000,
            }),
            ..CheckResponse::default()
        };
        let denial = denial(&response).expect("rejected");
        assert_eq!(denial.reason, RejectReason::NoTokens);
        assert_eq!(denial.denied_code, Some(418));
        assert_eq!(denial.wait, Some(Duration::from_millis(1750)));
    }

    #[test]
    fn invalid_values_in_a_denial_are_ignored() {
        let response = CheckResponse {
            decision_type: 7,
            reject_reason: 99,
            denied_response_status_code: -3,
            wait_time: Some(prost_types::Duration {
                seconds: -1,
                nanos: 0,
            }),
            ..CheckResponse::default()
        };
        let denial = denial(&response).expect("rejected");
        assert_eq!(denial, Denial::new(RejectReason::Unknown));
        assert!(super::denial(&CheckResponse::default()).is_none());
    }
}
