//! Checks of flows. Each is one boxed future, which may outlive its caller by a grace.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::availability::UnreachableFlow;
use super::call::CallOptions;
use super::check_rpc::{self, CheckRpc};
use super::failure::{CallFailure, GIVEN_UP};
use super::flow::{FlowOrigin, RemoteFlow};
use super::http;
use super::in_flight_check::InFlightCheck;
use super::message::OutgoingMessage;
use super::state::{OpenFlow, Remote, RuntimeState};
use super::transport::Purpose;
use crate::flow::{FlowError, FlowErrorKind, FlowParams, HttpAttributes};
use crate::telemetry::{FlowSpan, OpenSpan};

type CheckFuture = Pin<Box<dyn Future<Output = Result<RemoteFlow, FlowError>> + Send>>;

/// A check in flight. If it is dropped while the call runs, or its budget and grace pass, the call
/// goes on in the background for a while so that a grant that still arrives is returned.
///
/// It is small because it is part of the futures of layers that may never ask an Agent.
pub(crate) struct PendingCheck {
    state: State,
}

enum State {
    Refused(FlowError),
    /// Created outside a runtime, where no connection can be made yet.
    Deferred(Box<NewCheck>),
    Call(RunningCheck),
    Done,
}

struct NewCheck {
    remote: Remote,
    rpc: CheckRpc,
    control_point: String,
    request: OutgoingMessage,
    timeout: Option<Duration>,
    /// An unreachable flow does not run.
    fails_closed: bool,
    /// `None` if no spans are sent.
    span: Option<FlowSpan>,
}

struct RunningCheck {
    call: CheckFuture,
    progress: Arc<CheckProgress>,
    /// Nothing has been sent before the first poll.
    polled: bool,
}

/// The part of a running check that its owner can read.
struct CheckProgress {
    runtime: Arc<RuntimeState>,
    /// The index of the Agent that is asked.
    agent_index: AtomicUsize,
    /// Set when the deadline passes. The caller gets this error while the call may go on.
    timeout_error: OnceLock<FlowError>,
    /// The caller has left or has its result: the call asks no other Agent.
    abandoned: AtomicBool,
}

impl PendingCheck {
    /// Starts a check. An error is returned at once, without an allocation or a wait.
    pub(super) fn new(
        remote: &Remote,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Result<Self, FlowError> {
        Self::start(remote, CheckRpc::Check, control_point, params, || {
            check_rpc::encode_request(control_point, params)
        })
    }

    pub(super) fn http(
        remote: &Remote,
        control_point: &str,
        params: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
        baggage: Option<String>,
    ) -> Result<Self, FlowError> {
        Self::start(remote, CheckRpc::CheckHttp, control_point, params, || {
            let request = http::build_request(control_point, params, request, baggage);
            OutgoingMessage::new(&request)
        })
    }

    #[inline]
    fn start(
        remote: &Remote,
        rpc: CheckRpc,
        control_point: &str,
        params: &FlowParams<'_>,
        encode_request: impl FnOnce() -> OutgoingMessage,
    ) -> Result<Self, FlowError> {
        if control_point.is_empty() {
            return Err(FlowError::new(
                FlowErrorKind::InvalidRequest,
                "the control point is empty",
            ));
        }
        let shared = remote.shared();
        if shared.availability.is_shut_down() {
            return Err(FlowError::new(FlowErrorKind::ShutDown, ""));
        }
        let in_flight = match Handle::try_current() {
            Ok(_) => Some(permit_check(remote, params.fails_closed())?),
            Err(_) => None,
        };
        let new = NewCheck {
            remote: remote.clone(),
            rpc,
            control_point: control_point.to_owned(),
            request: encode_request(),
            timeout: params.budget(shared.config.check_timeout),
            fails_closed: params.fails_closed(),
            span: if shared.config.telemetry {
                FlowSpan::start(params)
            } else {
                None
            },
        };
        let state = match in_flight {
            Some(in_flight) => new.start(in_flight),
            None => State::Deferred(Box::new(new)),
        };
        Ok(Self { state })
    }
}

/// Returns permission to ask an Agent, or the error for a flow that no Agent can be asked about.
fn permit_check(remote: &Remote, fails_closed: bool) -> Result<InFlightCheck, FlowError> {
    let shared = remote.shared();
    let runtime = shared.current_runtime()?;
    InFlightCheck::start(&runtime).ok_or_else(|| {
        shared.counters.checks_not_sent.add(1);
        let error = FlowError::new(FlowErrorKind::Unavailable, GIVEN_UP);
        let availability = &shared.availability;
        let failed = UnreachableFlow {
            agent: match shared.agents.len() {
                1 => shared.agents.get(0).address(),
                _ => None,
            },
            decisions_before: availability.decisions(),
            other_agents: false,
            fails_closed,
        };
        availability.record_unreachable(&error, &failed);
        error
    })
}

impl Future for PendingCheck {
    type Output = Result<RemoteFlow, FlowError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            // The state is taken out while it is polled: a call that panics must not be polled
            // again.
            match mem::replace(&mut self.state, State::Done) {
                State::Deferred(check) => {
                    self.state = check.start_deferred();
                }
                State::Refused(error) => return Poll::Ready(Err(error)),
                State::Call(mut running) => {
                    running.polled = true;
                    let answer = running.call.as_mut().poll(cx);
                    if answer.is_pending() {
                        if let Some(error) = running.progress.timeout_error.get().cloned() {
                            running.hand_over();
                            return Poll::Ready(Err(error));
                        }
                        self.state = State::Call(running);
                    }
                    return answer;
                }
                State::Done => {
                    let message = "the check was polled after it completed";
                    return Poll::Ready(Err(FlowError::new(FlowErrorKind::Other, message)));
                }
            }
        }
    }
}

impl Drop for PendingCheck {
    fn drop(&mut self) {
        if let State::Call(running) = mem::replace(&mut self.state, State::Done)
            && running.polled
        {
            running.hand_over();
        }
    }
}

impl RunningCheck {
    fn hand_over(self) {
        let progress = &self.progress;
        progress.abandoned.store(true, Relaxed);
        progress
            .runtime
            .hand_over(progress.agent_index.load(Relaxed), self.call);
    }
}

impl NewCheck {
    fn start_deferred(self) -> State {
        match permit_check(&self.remote, self.fails_closed) {
            Ok(in_flight) => self.start(in_flight),
            Err(error) => State::Refused(error),
        }
    }

    fn start(self, in_flight: InFlightCheck) -> State {
        let progress = Arc::new(CheckProgress {
            runtime: Arc::clone(in_flight.runtime()),
            agent_index: AtomicUsize::new(in_flight.agent_index()),
            timeout_error: OnceLock::new(),
            abandoned: AtomicBool::new(false),
        });
        State::Call(RunningCheck {
            call: Box::pin(self.run(in_flight, Arc::clone(&progress))),
            progress,
            polled: false,
        })
    }

    async fn run(
        self,
        mut in_flight: InFlightCheck,
        progress: Arc<CheckProgress>,
    ) -> Result<RemoteFlow, FlowError> {
        let shared = Arc::clone(self.remote.shared());
        let Some(open_flow) = OpenFlow::new(&shared) else {
            return Err(FlowError::new(FlowErrorKind::ShutDown, ""));
        };
        let (availability, counters) = (&shared.availability, &shared.counters);
        let decisions_before = availability.decisions();
        let other_agents = shared.agents.len() > 1;
        let fails_closed = self.fails_closed;
        let started = Instant::now();
        let remaining = || {
            self.timeout
                .map(|all| all.saturating_sub(started.elapsed()))
        };
        let mut tried = 0;
        let mut resent = false;
        let mut budget = self.timeout;
        loop {
            let (runtime, agent_index) = (Arc::clone(in_flight.runtime()), in_flight.agent_index());
            progress.agent_index.store(agent_index, Relaxed);
            let unreachable = |failure: CallFailure| {
                let error = failure.into_error();
                let failed = UnreachableFlow {
                    agent: shared.agents.get(agent_index).address(),
                    decisions_before,
                    other_agents,
                    fails_closed,
                };
                availability.record_unreachable(&error, &failed);
                error
            };
            let abandoned = || progress.abandoned.load(Relaxed);
            let mut expired = false;
            let mut on_timeout = |failure: CallFailure| {
                expired = true;
                in_flight.record_failure(&failure);
                if !abandoned() {
                    // A call runs this once, and a check makes no further call after it.
                    let _ = progress.timeout_error.set(unreachable(failure));
                }
            };
            let another = other_agents && runtime.has_untried_agent(tried | 1 << agent_index);
            let options = CallOptions {
                budget,
                grace: shared.config.check_grace,
                // The other half of the budget is for the other Agent.
                connect_budget: budget.filter(|_| another).map(|budget| budget / 2),
                purpose: Purpose::Flow,
                connection: None,
                on_timeout: Some(&mut on_timeout),
            };
            let answer = runtime
                .call_with(
                    runtime.channel(agent_index),
                    agent_index,
                    self.rpc.path(),
                    &self.request,
                    options,
                    |response| self.rpc.decode(response),
                )
                .await;
            let failure = match answer {
                Ok(((response, extras), connection)) => {
                    in_flight.record_decision();
                    if !expired {
                        availability.record_decision();
                    }
                    let origin = FlowOrigin {
                        agent_index,
                        connection,
                        open_flow: Some(open_flow),
                        span: self.span.map(OpenSpan::start_workload),
                    };
                    drop(in_flight);
                    return Ok(RemoteFlow::new(
                        self.remote,
                        runtime,
                        self.control_point,
                        response,
                        origin,
                        extras,
                    ));
                }
                Err(failure) => failure,
            };
            if may_have_granted(&failure) {
                counters.checks_unsettled.add(1);
            }
            if !expired {
                in_flight.record_failure(&failure);
            }
            if expired || abandoned() {
                return Err(failure.into_error());
            }
            tried |= 1 << agent_index;
            budget = remaining();
            if failure.undecided() && budget != Some(Duration::ZERO) {
                if let Some(next) = InFlightCheck::start_except(&runtime, tried) {
                    counters.checks_moved.add(1);
                    in_flight = next;
                    continue;
                }
                // Retry once at the same address, which may stand for several Agents: if one of
                // them shuts down gracefully, another connection may lead to another Agent.
                if failure.unprocessed()
                    && !mem::replace(&mut resent, true)
                    && let Some(next) = InFlightCheck::start_at(&runtime, agent_index)
                {
                    in_flight = next;
                    continue;
                }
            }
            return Err(unreachable(failure));
        }
    }
}

/// Returns `true` if the check was sent and no decision can arrive any more, so that a slot may
/// stay taken at the Agent. This happens if the connection broke, or if a proxy cut the call off at
/// its deadline.
fn may_have_granted(failure: &CallFailure) -> bool {
    !failure.undecided() && (!failure.from_agent || failure.kind == FlowErrorKind::Timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_check_is_small_and_send_and_unpin() {
        fn assert_bounds<T: Send + Unpin + 'static>() {}
        assert_bounds::<PendingCheck>();
        assert!(size_of::<PendingCheck>() <= 64);
        assert_eq!(size_of::<RemoteFlow>(), size_of::<usize>());
    }
}
