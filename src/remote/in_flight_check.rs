//! Checks in flight at Agents, and what their outcome says about the Agent.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::agents::RemoteAgent;
use super::breaker::{FailureKind, Permit};
use super::failure::CallFailure;
use super::state::RuntimeState;

/// A check in flight at an Agent.
pub(super) struct InFlightCheck {
    runtime: Arc<RuntimeState>,
    agent_index: usize,
    permit: Permit,
    /// The number of checks that the Agent had answered when this one began.
    answers_before: u64,
}

impl InFlightCheck {
    /// Returns permission to check a flow with an Agent that is not given up. Returning `None`
    /// costs next to nothing. Starts the probes that are due.
    pub(super) fn start(runtime: &Arc<RuntimeState>) -> Option<Self> {
        let agents = &runtime.shared.agents;
        if agents.iter().any(|agent| !agent.breaker.is_closed()) {
            runtime.start_due_probes();
        }
        Self::start_except(runtime, 0)
    }

    /// Returns permission to check a flow with an Agent other than those in `tried`, which has one
    /// bit for each Agent.
    pub(super) fn start_except(runtime: &Arc<RuntimeState>, mut tried: u64) -> Option<Self> {
        let agents = &runtime.shared.agents;
        loop {
            let fits = |agent_index: usize, agent: &RemoteAgent| {
                tried & (1 << agent_index) == 0 && agent.breaker.is_closed()
            };
            let due = agents.due_for_retry(fits);
            let agent_index = due.or_else(|| agents.choose(fits))?;
            if let Some(permit) = agents.get(agent_index).breaker.permit() {
                return Some(Self::new(runtime, agent_index, permit));
            }
            // The Agent was given up since it was chosen.
            tried |= 1 << agent_index;
        }
    }

    /// Returns permission to send one more check to this Agent.
    pub(super) fn start_at(runtime: &Arc<RuntimeState>, agent_index: usize) -> Option<Self> {
        let permit = runtime.shared.agents.get(agent_index).breaker.permit()?;
        Some(Self::new(runtime, agent_index, permit))
    }

    fn new(runtime: &Arc<RuntimeState>, agent_index: usize, permit: Permit) -> Self {
        let agent = runtime.shared.agents.get(agent_index);
        agent.in_flight.fetch_add(1, Relaxed);
        Self {
            runtime: Arc::clone(runtime),
            agent_index,
            permit,
            answers_before: agent.answers(),
        }
    }

    pub(super) const fn runtime(&self) -> &Arc<RuntimeState> {
        &self.runtime
    }

    pub(super) const fn agent_index(&self) -> usize {
        self.agent_index
    }

    fn agent(&self) -> &RemoteAgent {
        self.runtime.shared.agents.get(self.agent_index)
    }

    /// Records that the Agent decided.
    pub(super) fn record_decision(&mut self) {
        self.agent().failures.clear();
        self.record_answer();
    }

    /// Records that the Agent answered, even if with an error.
    pub(super) fn record_answer(&mut self) {
        let agent = self.agent();
        agent.answers.fetch_add(1, Relaxed);
        agent.breaker.record_answer();
    }

    /// Counts a missing decision against the Agent. After enough of them in a row, a confirmation
    /// probe starts.
    pub(super) fn record_failure(&mut self, failure: &CallFailure) {
        let agent = self.agent();
        let first_failure = failure.lowers_preference() && agent.failures.record();
        if first_failure && failure.refuses_client() && self.runtime.shared.agents.len() > 1 {
            log_event!(
                warn,
                agent = agent.address(),
                reason = %failure.message,
                "the Aperture agent refuses checks: it gets fewer checks while other agents decide"
            );
        }
        if failure.is_full() {
            return;
        }
        let failure_kind = match failure.failure_kind() {
            None => return self.record_answer(),
            // Other checks were answered meanwhile: this check took long, but the Agent answers.
            Some(FailureKind::NoAnswer) if self.agent().answers() != self.answers_before => return,
            Some(failure_kind) => failure_kind,
        };
        let agent = self.agent();
        if let Some(suspicion) = agent.breaker.record_failure(self.permit, failure_kind) {
            self.runtime
                .start_confirmation_probe(self.agent_index, suspicion, &failure.message);
        }
        if agent.breaker.is_suspected() {
            // Flows go to the other Agents until this one decides again or the confirmation probe
            // has ended.
            agent.failures.record();
        }
    }
}

impl Drop for InFlightCheck {
    fn drop(&mut self) {
        self.agent().in_flight.fetch_sub(1, Relaxed);
    }
}
