//! The end of a flow, from the slots that the flow holds to the Agent's response.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::RemoteShared;
use super::breaker::FailureKind;
use super::call::{CallOptions, FLOW_END};
use super::failure::CallFailure;
use super::runtime_state::RuntimeState;
use super::transport::PooledConnection;
use crate::flow::{EndError, EndResponse, FlowError, FlowErrorKind, TokenReturn};
use crate::pb::check::limiter_decision::Details;
use crate::pb::check::{
    CheckResponse, FlowEndRequest, FlowEndResponse, InflightRequestRef, TokenReturnStatus,
};

/// The pause before the first retry: an Agent that restarts needs a moment. It doubles with each
/// retry, up to [`MAX_RETRY_PAUSE`].
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How much longer than the call's deadline a caller waits, so that the outcome of the call comes
/// first.
const RESPONSE_GRACE: Duration = Duration::from_millis(100);

/// Returns references to the slots that a flow holds: one for each decision of a concurrency
/// limiter or concurrency scheduler, including rejections.
pub(super) fn inflight_refs(
    response: &CheckResponse,
) -> impl Iterator<Item = InflightRequestRef> + '_ {
    response.limiter_decisions.iter().filter_map(|decision| {
        let (label, request_id, tokens) = match decision.details.as_ref()? {
            Details::ConcurrencyLimiterInfo(info) => {
                (&info.label, &info.request_id, info.tokens_info)
            }
            Details::ConcurrencySchedulerInfo(info) => {
                (&info.label, &info.request_id, info.tokens_info)
            }
            _ => return None,
        };
        (!request_id.is_empty()).then(|| InflightRequestRef {
            policy_name: decision.policy_name.clone(),
            policy_hash: decision.policy_hash.clone(),
            component_id: decision.component_id.clone(),
            label: label.clone(),
            request_id: request_id.clone(),
            tokens: tokens.map_or(0.0, |tokens| tokens.consumed),
        })
    })
}

/// How often an end may move to another runtime.
const MAX_MOVES: u8 = 16;

/// The end of one flow, on its way to the Agent.
pub(super) struct EndJob {
    control_point: String,
    /// The index of the Agent that accepted the flow.
    agent_index: usize,
    /// The connection of the check. Behind a virtual address, another connection may lead to
    /// another Agent.
    connection: Option<Arc<PooledConnection>>,
    refs: Vec<InflightRequestRef>,
    reply: Option<oneshot::Sender<EndResponse>>,
    /// How often its runtime ended while it was being sent.
    moves: u8,
}

impl EndJob {
    pub(super) const fn new(
        control_point: String,
        agent_index: usize,
        connection: Option<Arc<PooledConnection>>,
        refs: Vec<InflightRequestRef>,
    ) -> Self {
        Self {
            control_point,
            agent_index,
            connection,
            refs,
            reply: None,
            moves: 0,
        }
    }

    pub(super) fn control_point(&self) -> &str {
        &self.control_point
    }

    pub(super) const fn agent_index(&self) -> usize {
        self.agent_index
    }

    /// Returns `true` if both ends can be sent in one call: they have the same control point, Agent
    /// and connection.
    pub(super) fn can_share_call(&self, other: &Self) -> bool {
        let same_connection = match (&self.connection, &other.connection) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same_connection
            && self.agent_index == other.agent_index
            && self.control_point == other.control_point
    }

    /// Returns `true` if a call with this end was in flight when its runtime ended.
    pub(super) const fn was_sent(&self) -> bool {
        self.moves > 0
    }

    /// Returns the number of slots that this end returns.
    pub(super) const fn ref_count(&self) -> usize {
        self.refs.len()
    }

    /// Returns a receiver for the response to this end.
    pub(super) fn response_receiver(&mut self) -> oneshot::Receiver<EndResponse> {
        let (reply, answer) = oneshot::channel();
        self.reply = Some(reply);
        answer
    }

    fn reply(self, response: EndResponse) {
        if let Some(reply) = self.reply {
            // The error means that the caller has dropped the receiver.
            let _ = reply.send(response);
        }
    }
}

/// Ends that are sent in one call.
///
/// If the runtime ends before the response arrives, the ends move to another runtime; returning a
/// slot twice has no effect. Without another runtime they count as failed.
pub(super) struct EndBatch {
    runtime: Arc<RuntimeState>,
    agent_index: usize,
    jobs: Vec<EndJob>,
}

impl EndBatch {
    /// Creates a batch of at least one end. One Agent has accepted all their flows.
    pub(super) fn new(runtime: &Arc<RuntimeState>, jobs: Vec<EndJob>) -> Self {
        Self {
            runtime: Arc::clone(runtime),
            agent_index: jobs.first().map_or(0, |job| job.agent_index),
            jobs,
        }
    }

    /// Sends the ends to the Agent that accepted the flows, or to another one while that Agent does
    /// not answer: all Agents of a cluster can return its slots.
    pub(super) async fn send(mut self) {
        let runtime = Arc::clone(&self.runtime);
        let counters = &runtime.shared.counters;
        let granted_by = self.agent_index;
        let (answer, sent_to) = self.send_with_retries(granted_by).await;
        let jobs = std::mem::take(&mut self.jobs);
        match answer {
            Ok(response) => {
                counters.ends_delivered.add(jobs.len());
                if sent_to != granted_by {
                    counters.ends_moved.add(jobs.len());
                }
                distribute(jobs, response);
            }
            Err(failure) => {
                counters.ends_failed.add(jobs.len());
                let error = EndError::Call(failure.into_error());
                for job in jobs {
                    job.reply(EndResponse::failed(error.clone()));
                }
            }
        }
    }

    /// Sends the ends, and retries if the Agent is unavailable. A retry goes to another Agent if
    /// one is available. Otherwise it waits: at most the timeout of a call for an Agent that is
    /// given up or accepts no connections, and a short pause for an Agent that answers
    /// `UNAVAILABLE`.
    async fn send_with_retries(
        &self,
        granted_by: usize,
    ) -> (Result<FlowEndResponse, CallFailure>, usize) {
        let runtime = &self.runtime;
        let timeout = runtime.shared.config.background_timeout();
        let until = Instant::now() + timeout;
        let agents = runtime.shared.agents.len();
        let request = Arc::new(self.request());
        let (mut tried, mut attempts, mut pause) = (0, 0, RETRY_PAUSE);
        loop {
            let Some(agent_index) = runtime.wait_for_route(Some(granted_by), tried, until).await
            else {
                return (Err(CallFailure::given_up()), granted_by);
            };
            let connection = self.jobs.first().and_then(|job| job.connection.as_ref());
            let options = CallOptions {
                connection: connection.filter(|_| agent_index == granted_by),
                ..CallOptions::background(Some(timeout))
            };
            let answer = runtime
                .call_with(
                    runtime.channel(agent_index),
                    agent_index,
                    FLOW_END,
                    Arc::clone(&request),
                    options,
                )
                .await
                .map(|(answer, _)| answer);
            tried |= 1 << agent_index;
            attempts += 1;
            let Err(failure) = &answer else {
                return (answer, agent_index);
            };
            let another = runtime.route(None, tried);
            let another = another.is_some_and(|agent_index| tried & (1 << agent_index) == 0);
            let may_recover = || {
                failure.unsent
                    && !runtime.shared.availability.is_shut_down()
                    && Instant::now() + pause < until
            };
            let retry = match failure.failure_kind() {
                Some(FailureKind::NoAnswer) => another,
                Some(_) => attempts <= agents || may_recover(),
                None => false,
            };
            if !retry {
                return (answer, agent_index);
            }
            if attempts == 1 {
                runtime.shared.counters.ends_retried.add(self.jobs.len());
            }
            if !another {
                tokio::time::sleep(pause).await;
                pause = MAX_RETRY_PAUSE.min(pause * 2);
            }
        }
    }

    fn request(&self) -> FlowEndRequest {
        let refs = self.jobs.iter().flat_map(|job| job.refs.iter().cloned());
        FlowEndRequest {
            control_point: self
                .jobs
                .first()
                .map_or("", EndJob::control_point)
                .to_owned(),
            inflight_requests: refs.collect(),
        }
    }
}

impl Drop for EndBatch {
    fn drop(&mut self) {
        // Before the ends move: they may return to this queue.
        let mut queue = self.runtime.queue();
        queue.ends.finish_call(self.agent_index);
        drop(queue);
        let shared = &self.runtime.shared;
        for mut job in std::mem::take(&mut self.jobs) {
            job.moves += 1;
            // Ends that make a call panic must not panic again in another runtime.
            let movable = job.moves < MAX_MOVES && !std::thread::panicking();
            if !movable
                || shared
                    .enqueue(Some(&self.runtime), job, RuntimeState::push_end)
                    .is_err()
            {
                shared.counters.ends_failed.add(1);
            }
        }
    }
}

/// Gives each flow its part of the response. The statuses are in the order of the references.
fn distribute(jobs: Vec<EndJob>, response: FlowEndResponse) {
    let mut statuses = response.token_return_statuses.into_iter();
    for mut job in jobs {
        let returns = std::mem::take(&mut job.refs)
            .into_iter()
            .map(|reference| token_return(reference, statuses.next()))
            .collect();
        job.reply(EndResponse::returned(returns));
    }
}

fn token_return(reference: InflightRequestRef, status: Option<TokenReturnStatus>) -> TokenReturn {
    let (returned, error) = match status {
        Some(status) => (
            status.returned,
            (!status.error.is_empty()).then_some(status.error),
        ),
        None => (
            false,
            Some("the agent's response has no status for it".to_owned()),
        ),
    };
    let mut result = TokenReturn::default();
    result.policy_name = reference.policy_name;
    result.component_id = reference.component_id;
    result.label = reference.label;
    result.request_id = reference.request_id;
    result.returned = returned;
    result.error = error;
    result
}

/// The Agent's response to the end of a flow. Dropping it discards the response, not the end.
#[must_use = "the end is sent anyway; await this for the response of the agent"]
pub(crate) struct EndCall {
    state: EndState,
}

enum EndState {
    Ready(Option<EndResponse>),
    Waiting {
        answer: oneshot::Receiver<EndResponse>,
        timeout: Duration,
        /// Set at the first poll inside a runtime, whose timer it needs.
        expiry: Option<Pin<Box<Sleep>>>,
        shared: Arc<RemoteShared>,
    },
}

impl EndCall {
    pub(super) const fn ready(response: EndResponse) -> Self {
        Self {
            state: EndState::Ready(Some(response)),
        }
    }

    pub(super) const fn waiting(
        answer: oneshot::Receiver<EndResponse>,
        timeout: Duration,
        shared: Arc<RemoteShared>,
    ) -> Self {
        Self {
            state: EndState::Waiting {
                answer,
                timeout,
                expiry: None,
                shared,
            },
        }
    }
}

impl Future for EndCall {
    type Output = EndResponse;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<EndResponse> {
        match &mut self.state {
            EndState::Ready(response) => Poll::Ready(response.take().unwrap_or_default()),
            EndState::Waiting {
                answer,
                timeout,
                expiry,
                shared,
            } => {
                if let Poll::Ready(answer) = Pin::new(answer).poll(cx) {
                    let response = answer.unwrap_or_else(|_| {
                        EndResponse::failed(lost_end_error(&shared.availability))
                    });
                    self.state = EndState::Ready(None);
                    return Poll::Ready(response);
                }
                if expiry.is_none() && Handle::try_current().is_ok() {
                    *expiry = Some(Box::pin(tokio::time::sleep(
                        timeout.saturating_add(RESPONSE_GRACE),
                    )));
                }
                if let Some(expiry) = expiry
                    && expiry.as_mut().poll(cx).is_ready()
                {
                    let message =
                        format!("no answer within {timeout:?}; the end is still being sent");
                    let error = FlowError::new(FlowErrorKind::Timeout, message);
                    self.state = EndState::Ready(None);
                    return Poll::Ready(EndResponse::failed(EndError::Call(error)));
                }
                Poll::Pending
            }
        }
    }
}

/// Returns the error of an end whose worker ended without another one taking it over.
fn lost_end_error(availability: &super::availability::Availability) -> EndError {
    if availability.is_shut_down() {
        EndError::ShutDown
    } else {
        EndError::Call(FlowError::new(
            FlowErrorKind::Unavailable,
            "the runtime of the connection ended",
        ))
    }
}
