//! The choice of an Agent for a call.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::state::RuntimeState;

/// The longest time between two looks for an available Agent while background work waits for one.
const MAX_RECHECK_INTERVAL: Duration = Duration::from_secs(1);

impl RuntimeState {
    /// Returns `true` if an Agent other than those in `tried` can be asked about a flow.
    pub(super) fn has_untried_agent(&self, tried: u64) -> bool {
        let mut agents = self.shared.agents.iter().enumerate();
        agents.any(|(agent_index, agent)| {
            tried & (1 << agent_index) == 0 && agent.breaker.is_closed()
        })
    }

    /// Returns an Agent for a call that is no check: `preferred` if it is available and not in
    /// `tried`, else any other such Agent. An Agent in `tried` is returned only if no other is
    /// available.
    pub(super) fn route(&self, preferred: Option<usize>, tried: u64) -> Option<usize> {
        let agents = &self.shared.agents;
        let is_available = |agent_index: usize| !agents.get(agent_index).breaker.is_open();
        let is_untried =
            |agent_index: usize| is_available(agent_index) && tried & (1 << agent_index) == 0;
        preferred
            .filter(|agent_index| is_untried(*agent_index))
            .or_else(|| agents.choose(|agent_index, _| is_untried(agent_index)))
            .or_else(|| preferred.filter(|agent_index| is_available(*agent_index)))
            .or_else(|| agents.choose(|agent_index, _| is_available(agent_index)))
    }

    /// Like [`route`](Self::route), but waits while all Agents are given up. Returns `None` when
    /// `until` passes first. Once the client shuts down it does not wait, and returns `preferred`
    /// even if that Agent is given up.
    pub(super) async fn wait_for_route(
        self: &Arc<Self>,
        preferred: Option<usize>,
        tried: u64,
        until: Instant,
    ) -> Option<usize> {
        let agents = &self.shared.agents;
        loop {
            let mut changed = std::pin::pin!(agents.changed.notified());
            changed.as_mut().enable();
            if let Some(agent_index) = self.route(preferred, tried) {
                return Some(agent_index);
            }
            if self.shared.availability.is_shut_down() {
                return Some(preferred.unwrap_or(0));
            }
            let now = Instant::now();
            if now >= until {
                return None;
            }
            self.start_due_probes();
            let recheck = agents
                .get(0)
                .breaker
                .probe_interval()
                .min(MAX_RECHECK_INTERVAL);
            let _ = tokio::time::timeout(recheck.min(until - now), changed).await;
        }
    }
}
