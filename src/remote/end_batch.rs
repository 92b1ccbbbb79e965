//! Sends ends of flows, several in one call, and retries.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::time::Instant;

use super::breaker::FailureKind;
use super::call::{CallOptions, FLOW_END};
use super::end_job::EndJob;
use super::failure::CallFailure;
use super::message::OutgoingMessage;
use super::state::RuntimeState;
use crate::flow::{EndError, EndResponse, TokenReturn};
use crate::messages::check::InflightRequestRef;
use crate::protobuf::{put_bytes_unless_empty, put_message};

/// The pause before the first retry: an Agent that restarts needs a moment. It doubles with each
/// retry, up to [`MAX_RETRY_PAUSE`].
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How often an end may move to another runtime.
const MAX_MOVES: u8 = 16;

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
            agent_index: jobs.first().map_or(0, EndJob::agent_index),
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
    ) -> (Result<EndStatuses, CallFailure>, usize) {
        let runtime = &self.runtime;
        let timeout = runtime.shared.config.background_timeout();
        let until = Instant::now() + timeout;
        let agents = runtime.shared.agents.len();
        let request = self.request();
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
                    &request,
                    options,
                    EndStatuses::decode,
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

    /// Encodes the `FlowEndRequest`.
    fn request(&self) -> OutgoingMessage {
        let refs = || self.jobs.iter().flat_map(|job| &job.refs);
        let len: usize = refs().map(|reference| 4 + reference.encoded_len()).sum();
        let control_point = self.jobs.first().map_or("", EndJob::control_point);
        OutgoingMessage::build(len + control_point.len() + 4, |request| {
            put_bytes_unless_empty(request, 1, control_point);
            for reference in refs() {
                put_message(request, 2, |buffer| {
                    // Only a buffer that cannot grow makes this fail.
                    let _ = reference.encode(buffer);
                });
            }
        })
    }
}

/// A `FlowEndResponse` without the references, which repeat those of the request.
#[derive(Clone, PartialEq, Message)]
struct EndStatuses {
    /// One for each reference of the request, in its order.
    #[prost(message, repeated, tag = "1")]
    statuses: Vec<EndStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct EndStatus {
    #[prost(bool, tag = "2")]
    returned: bool,
    #[prost(string, tag = "3")]
    error: String,
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
fn distribute(jobs: Vec<EndJob>, response: EndStatuses) {
    let mut statuses = response.statuses.into_iter();
    for mut job in jobs {
        if !job.wants_response() {
            statuses.by_ref().take(job.ref_count()).for_each(drop);
            continue;
        }
        let returns = std::mem::take(&mut job.refs)
            .into_iter()
            .map(|reference| token_return(reference, statuses.next()))
            .collect();
        job.reply(EndResponse::returned(returns));
    }
}

fn token_return(reference: InflightRequestRef, status: Option<EndStatus>) -> TokenReturn {
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
