//! The end of a flow, from the slots that it holds to the Agent's answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::Shared;
use super::breaker::Evidence;
use super::call::{FLOW_END, Terms};
use super::failure::Failure;
use super::live::Live;
use super::transport::Connection;
use crate::flow::{EndError, EndResponse, FlowError, FlowErrorKind, TokenReturn};
use crate::pb::check::limiter_decision::Details;
use crate::pb::check::{
    CheckResponse, FlowEndRequest, FlowEndResponse, InflightRequestRef, TokenReturnStatus,
};

/// Before the second try: an Agent that restarts needs a moment. It doubles up to the longest.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a caller waits beyond the deadline of the call, so that the call's own outcome comes first.
const GRACE: Duration = Duration::from_millis(100);

/// The slots that a flow holds: one for each decision of a concurrency limiter or concurrency
/// scheduler, dropped ones included.
pub(super) fn refs(response: &CheckResponse) -> impl Iterator<Item = InflightRequestRef> + '_ {
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
    /// The Agent that let the flow in.
    at: usize,
    /// The connection of the check. Behind a virtual address another one may lead to another
    /// Agent.
    connection: Option<Arc<Connection>>,
    refs: Vec<InflightRequestRef>,
    reply: Option<oneshot::Sender<EndResponse>>,
    /// How often its runtime has ended while it was sent.
    moves: u8,
}

impl EndJob {
    pub(super) const fn new(
        control_point: String,
        at: usize,
        connection: Option<Arc<Connection>>,
        refs: Vec<InflightRequestRef>,
    ) -> Self {
        Self {
            control_point,
            at,
            connection,
            refs,
            reply: None,
            moves: 0,
        }
    }

    pub(super) fn control_point(&self) -> &str {
        &self.control_point
    }

    pub(super) const fn agent(&self) -> usize {
        self.at
    }

    /// Both can travel in one call: at the same control point, to the same Agent, on the same
    /// connection.
    pub(super) fn fits(&self, other: &Self) -> bool {
        let same_connection = match (&self.connection, &other.connection) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same_connection && self.at == other.at && self.control_point == other.control_point
    }

    /// A call with it was under way when its runtime ended.
    pub(super) const fn was_sent(&self) -> bool {
        self.moves > 0
    }

    /// How many slots it gives back.
    pub(super) const fn refs(&self) -> usize {
        self.refs.len()
    }

    /// Asks for the answer as well.
    pub(super) fn answer(&mut self) -> oneshot::Receiver<EndResponse> {
        let (reply, answer) = oneshot::channel();
        self.reply = Some(reply);
        answer
    }

    fn reply(self, response: EndResponse) {
        if let Some(reply) = self.reply {
            // Nobody waits any more.
            let _ = reply.send(response);
        }
    }
}

/// Ends that travel in one call. When its runtime ends before the answer came, they move to another
/// one: to give a slot back twice changes nothing. Where there is none, they count as failed.
pub(super) struct Batch {
    live: Arc<Live>,
    at: usize,
    jobs: Vec<EndJob>,
}

impl Batch {
    /// Ends of flows that one Agent let in, at least one.
    pub(super) fn new(live: &Arc<Live>, jobs: Vec<EndJob>) -> Self {
        Self {
            live: Arc::clone(live),
            at: jobs.first().map_or(0, |job| job.at),
            jobs,
        }
    }

    /// Calls the Agent that let the flows in, or another one while it does not answer: all Agents of
    /// a cluster know its slots.
    pub(super) async fn send(mut self) {
        let live = Arc::clone(&self.live);
        let counters = &live.shared.counters;
        let granted_by = self.at;
        let (answer, called) = self.deliver(granted_by).await;
        let jobs = std::mem::take(&mut self.jobs);
        match answer {
            Ok(response) => {
                counters.ends_delivered.add(jobs.len());
                if called != granted_by {
                    counters.ends_moved.add(jobs.len());
                }
                deliver(jobs, response);
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

    /// Tries another Agent where there is one, and waits where there is none: for one that was
    /// given up, or that takes no connections, no longer than a call may take; for one that says
    /// it is unavailable, a moment.
    async fn deliver(&self, granted_by: usize) -> (Result<FlowEndResponse, Failure>, usize) {
        let live = &self.live;
        let timeout = live.shared.config.background_timeout();
        let until = Instant::now() + timeout;
        let agents = live.shared.agents.len();
        let request = Arc::new(self.request());
        let (mut tried, mut tries, mut pause) = (0, 0, RETRY_PAUSE);
        loop {
            let Some(at) = live.wait_for_route(Some(granted_by), tried, until).await else {
                return (Err(Failure::given_up()), granted_by);
            };
            let connection = self.jobs.first().and_then(|job| job.connection.as_ref());
            let terms = Terms {
                connection: connection.filter(|_| at == granted_by),
                ..Terms::background(Some(timeout))
            };
            let answer = live
                .exchange(live.channel(at), at, FLOW_END, Arc::clone(&request), terms)
                .await
                .map(|(answer, _)| answer);
            tried |= 1 << at;
            tries += 1;
            let Err(failure) = &answer else {
                return (answer, at);
            };
            let another = live.route(None, tried);
            let another = another.is_some_and(|at| tried & (1 << at) == 0);
            let hopeful = || {
                failure.unsent
                    && !live.shared.health.is_shut_down()
                    && Instant::now() + pause < until
            };
            let retry = match failure.evidence() {
                Some(Evidence::Silence) => another,
                Some(_) => tries <= agents || hopeful(),
                None => false,
            };
            if !retry {
                return (answer, at);
            }
            if tries == 1 {
                live.shared.counters.ends_retried.add(self.jobs.len());
            }
            if !another {
                tokio::time::sleep(pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
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

impl Drop for Batch {
    fn drop(&mut self) {
        // Before the ends move: they may come back to this queue.
        let mut queue = self.live.queue();
        queue.ends.called(self.at);
        drop(queue);
        let shared = &self.live.shared;
        for mut job in std::mem::take(&mut self.jobs) {
            job.moves += 1;
            // A panic would come back with the ends.
            let movable = job.moves < MAX_MOVES && !std::thread::panicking();
            if !movable || shared.offer(Some(&self.live), job, Live::push_end).is_err() {
                shared.counters.ends_failed.add(1);
            }
        }
    }
}

/// Gives each flow its part of the answer, which follows the order of the references.
fn deliver(jobs: Vec<EndJob>, response: FlowEndResponse) {
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
        None => (false, Some("the agent did not say".to_owned())),
    };
    TokenReturn {
        policy_name: reference.policy_name,
        component_id: reference.component_id,
        label: reference.label,
        request_id: reference.request_id,
        returned,
        error,
    }
}

/// The Agent's answer to the end of a flow. Dropping it loses the answer, not the end.
#[must_use = "the end is under way; await it for the answer"]
pub(crate) struct EndCall {
    state: EndState,
}

enum EndState {
    Ready(Option<EndResponse>),
    Waiting {
        answer: oneshot::Receiver<EndResponse>,
        timeout: Duration,
        /// Set at the first poll, when there is a runtime to tell the time.
        expiry: Option<Pin<Box<Sleep>>>,
        shared: Arc<Shared>,
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
        shared: Arc<Shared>,
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
                    let response =
                        answer.unwrap_or_else(|_| EndResponse::failed(lost(&shared.health)));
                    self.state = EndState::Ready(None);
                    return Poll::Ready(response);
                }
                if expiry.is_none() && Handle::try_current().is_ok() {
                    *expiry = Some(Box::pin(tokio::time::sleep(timeout.saturating_add(GRACE))));
                }
                if let Some(expiry) = expiry
                    && expiry.as_mut().poll(cx).is_ready()
                {
                    let late = format!("no answer within {timeout:?}; the end is still under way");
                    let error = FlowError::new(FlowErrorKind::Timeout, late);
                    self.state = EndState::Ready(None);
                    return Poll::Ready(EndResponse::failed(EndError::Call(error)));
                }
                Poll::Pending
            }
        }
    }
}

/// The worker ended, and no other took the end.
fn lost(health: &super::health::Health) -> EndError {
    if health.is_shut_down() {
        EndError::ShutDown
    } else {
        EndError::Call(FlowError::new(
            FlowErrorKind::Unavailable,
            "the runtime of the connection ended",
        ))
    }
}
