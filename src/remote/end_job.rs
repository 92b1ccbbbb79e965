//! The end of one flow, on its way to the Agent.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::transport::PooledConnection;
use crate::flow::EndResponse;
use crate::messages::check::limiter_decision::Details;
use crate::messages::check::{CheckResponse, InflightRequestRef};

/// Returns `true` if the flow holds a slot, which its end returns.
pub(super) fn holds_slot(response: &CheckResponse) -> bool {
    response.limiter_decisions.iter().any(|decision| {
        let request_id = match &decision.details {
            Some(Details::ConcurrencyLimiterInfo(info)) => &info.request_id,
            Some(Details::ConcurrencySchedulerInfo(info)) => &info.request_id,
            _ => return false,
        };
        !request_id.is_empty()
    })
}

/// Returns references to the slots that a flow holds: one for each decision of a concurrency
/// limiter or concurrency scheduler, including rejections. Takes the texts out of the response.
pub(super) fn take_inflight_refs(response: &mut CheckResponse) -> Vec<InflightRequestRef> {
    if !holds_slot(response) {
        return Vec::new();
    }
    let decisions = std::mem::take(&mut response.limiter_decisions).into_iter();
    let refs = decisions.filter_map(|decision| {
        let (label, request_id, tokens) = match decision.details? {
            Details::ConcurrencyLimiterInfo(info) => {
                (info.label, info.request_id, info.tokens_info)
            }
            Details::ConcurrencySchedulerInfo(info) => {
                (info.label, info.request_id, info.tokens_info)
            }
            _ => return None,
        };
        (!request_id.is_empty()).then(|| InflightRequestRef {
            policy_name: decision.policy_name,
            policy_hash: decision.policy_hash,
            component_id: decision.component_id,
            label,
            request_id,
            tokens: tokens.map_or(0.0, |tokens| tokens.consumed),
        })
    });
    refs.collect()
}

/// The end of one flow, on its way to the Agent.
pub(super) struct EndJob {
    control_point: String,
    /// The index of the Agent that accepted the flow.
    agent_index: usize,
    /// The connection of the check. Behind a virtual address, another connection may lead to
    /// another Agent.
    pub(super) connection: Option<Arc<PooledConnection>>,
    pub(super) refs: Vec<InflightRequestRef>,
    reply: Option<oneshot::Sender<EndResponse>>,
    /// How often its runtime ended while it was being sent.
    pub(super) moves: u8,
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

    /// Returns `true` if a caller waits for the response.
    pub(super) const fn wants_response(&self) -> bool {
        self.reply.is_some()
    }

    pub(super) fn reply(self, response: EndResponse) {
        if let Some(reply) = self.reply {
            // The error means that the caller has dropped the receiver.
            let _ = reply.send(response);
        }
    }
}
