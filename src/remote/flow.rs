use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::flow_end::{EndCall, EndJob, refs};
use super::live::Live;
use super::stamps::Stamps;
use super::transport::Connection;
use super::{OpenFlow, Remote};
#[cfg(feature = "telemetry")]
use crate::flow::TraceParent;
use crate::flow::{
    Denial, EndError, EndResponse, FlowOutcome, FlowStatus, HttpExtras, Quota, RejectReason,
};
use crate::pb::check::check_response::{DecisionType, RejectReason as Reason};
use crate::pb::check::limiter_decision::Details;
use crate::pb::check::{CacheLookupResponse, CheckResponse, InflightRequestRef, LimiterDecision};
#[cfg(feature = "telemetry")]
use crate::telemetry::SpanRecord;

/// A flow the Agent has answered for. Dropped without an end, it ends with status `Error`.
pub(crate) struct RemoteFlow {
    /// There until the flow ends.
    answered: Option<Box<Answered>>,
}

struct Answered {
    remote: Remote,
    live: Arc<Live>,
    control_point: String,
    response: CheckResponse,
    grant: Grant,
    extras: Option<Box<HttpExtras>>,
}

/// The Agent that decided, and when.
pub(super) struct Grant {
    pub(super) at: usize,
    /// The end goes out on it. `None` for a flow that holds no slot.
    pub(super) connection: Option<Arc<Connection>>,
    /// `None` for a flow that holds neither slot nor span.
    pub(super) open: Option<OpenFlow>,
    pub(super) stamps: Stamps,
    #[cfg(feature = "telemetry")]
    pub(super) trace: Option<Box<TraceParent>>,
}

// === impl RemoteFlow ===

impl RemoteFlow {
    pub(super) fn new(
        remote: Remote,
        live: Arc<Live>,
        control_point: String,
        response: CheckResponse,
        mut grant: Grant,
        extras: Option<Box<HttpExtras>>,
    ) -> Self {
        #[cfg(feature = "telemetry")]
        let span = remote.shared().config.telemetry;
        #[cfg(not(feature = "telemetry"))]
        let span = false;
        if refs(&response).next().is_none() {
            grant.connection = None;
            grant.open = grant.open.filter(|_| span);
        }
        Self {
            answered: Some(Box::new(Answered {
                remote,
                live,
                control_point,
                response,
                grant,
                extras,
            })),
        }
    }

    pub(crate) fn take_extras(&mut self) -> Option<Box<HttpExtras>> {
        self.answered.as_mut()?.extras.take()
    }

    /// The control point that the Agent was asked about.
    pub(crate) fn control_point(&self) -> &str {
        self.answered
            .as_ref()
            .map_or("", |answered| &answered.control_point)
    }

    /// What the Agent answered.
    pub(crate) fn response(&self) -> &CheckResponse {
        static NOTHING: std::sync::LazyLock<CheckResponse> =
            std::sync::LazyLock::new(CheckResponse::default);
        // Only an end takes the answer away, and an end takes the flow too.
        self.answered
            .as_ref()
            .map_or_else(|| &*NOTHING, |answered| &answered.response)
    }

    /// What the caches had, out of the answer: the flow's span need not carry it back.
    pub(crate) fn take_lookup(&mut self) -> Option<CacheLookupResponse> {
        let lookup = self
            .answered
            .as_mut()?
            .response
            .cache_lookup_response
            .as_mut()?;
        let outcomes = lookup.clone();
        let result = lookup.result_cache_response.iter_mut();
        let global = lookup.global_cache_responses.iter_mut();
        for key in result.chain(global.filter_map(|entry| entry.value.as_mut())) {
            key.value = Bytes::new();
        }
        Some(outcomes)
    }

    /// The Agent's no, if it is one.
    pub(crate) fn denial(&self) -> Option<Denial> {
        denial(self.response())
    }

    /// How long the Agent took for a flow that went through a scheduler, by its own clock.
    pub(crate) fn queue_time(&self) -> Option<Duration> {
        let response = self.response();
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
        let nanos = |at: prost_types::Timestamp| {
            i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos)
        };
        let took = u64::try_from(nanos(end) - nanos(start)).ok()?;
        scheduled.then(|| Duration::from_nanos(took))
    }

    /// What limiters told of their tokens. How they are filled an Agent does not tell.
    pub(crate) fn quotas(&self) -> Vec<Quota> {
        let decisions = self.response().limiter_decisions.iter();
        decisions.filter_map(quota).collect()
    }

    /// Leaves end and span to the background; never blocks.
    pub(crate) fn end(mut self, outcome: FlowOutcome) {
        if let Some(answered) = self.answered.take() {
            answered.end(outcome);
        }
    }

    /// Like [`end`](Self::end), at once; the future is the Agent's answer to it.
    pub(crate) fn end_and_wait(mut self, outcome: FlowOutcome) -> EndCall {
        match self.answered.take() {
            Some(answered) => answered.end_and_wait(outcome),
            None => EndCall::ready(EndResponse::default()),
        }
    }

    /// Ends a flow whose caller had left before the answer came.
    ///
    /// There is no span: nothing ran, and a workload that took no time would tell a scheduler that
    /// measures latency that all is well.
    pub(super) fn give_back(mut self) {
        if let Some(answered) = self.answered.take()
            && let Some(job) = answered.job()
        {
            let _ = submit(&answered.live, job); // counted there
        }
    }
}

impl Drop for RemoteFlow {
    fn drop(&mut self) {
        if let Some(answered) = self.answered.take() {
            answered.end(FlowOutcome::new(FlowStatus::Error));
        }
    }
}

/// Labels in the answer may identify people.
impl fmt::Debug for RemoteFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteFlow")
            .field("denial", &self.denial())
            .finish_non_exhaustive()
    }
}

// === impl Answered ===

impl Answered {
    fn job(&self) -> Option<EndJob> {
        let refs: Vec<InflightRequestRef> = refs(&self.response).collect();
        // Nothing is held: nothing to tell the Agent, and no thread to wake.
        (!refs.is_empty()).then(|| {
            let connection = self.grant.connection.clone();
            EndJob::new(self.control_point.clone(), self.grant.at, connection, refs)
        })
    }

    fn end(self: Box<Self>, outcome: FlowOutcome) {
        if let Some(job) = self.job() {
            let _ = submit(&self.live, job); // counted there
        }
        self.record(outcome);
    }

    fn end_and_wait(self: Box<Self>, outcome: FlowOutcome) -> EndCall {
        let call = match self.job() {
            None => EndCall::ready(EndResponse::default()),
            Some(mut job) => {
                let answer = job.answer();
                match submit(&self.live, job) {
                    Ok(()) => EndCall::waiting(
                        answer,
                        self.remote.shared().config.background_timeout(),
                        Arc::clone(&self.live.shared),
                    ),
                    Err(error) => EndCall::ready(EndResponse::failed(error)),
                }
            }
        };
        self.record(outcome);
        call
    }

    #[cfg(feature = "telemetry")]
    fn record(self: Box<Self>, outcome: FlowOutcome) {
        let Self {
            live,
            response,
            grant:
                Grant {
                    stamps,
                    trace,
                    open,
                    ..
                },
            remote,
            ..
        } = *self;
        if live.shared.config.telemetry {
            let span = SpanRecord {
                flow_start: stamps.flow_start(),
                workload_start: stamps.workload_start(),
                flow_end: stamps.now(),
                outcome,
                response,
                trace,
            };
            // In the same runtime as the end.
            let queued = live.shared.offer(Some(&live), span, Live::push_span);
            if queued.is_err() {
                live.shared.counters.spans_dropped.add(1);
            }
        }
        // Last, because a worker may end once no flow and no handle is left.
        drop(open);
        drop(remote);
    }

    #[cfg(not(feature = "telemetry"))]
    fn record(self: Box<Self>, _: FlowOutcome) {
        let Stamps = self.grant.stamps;
        drop(self.grant.open);
    }
}

/// Queues an end; counts it when it is lost.
fn submit(live: &Arc<Live>, job: EndJob) -> Result<(), EndError> {
    let queued = live.shared.offer(Some(live), job, Live::push_end);
    queued.inspect_err(|_| live.shared.counters.ends_dropped.add(1))
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
    fn a_denial_carries_reason_code_and_the_whole_wait() {
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
    fn nonsense_in_a_denial_is_left_out() {
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
