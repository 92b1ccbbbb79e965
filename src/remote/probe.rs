use std::sync::Arc;
use std::time::Duration;

use super::call::HEALTH;
use super::failure::Failure;
use super::live::Live;

/// How long a probe may take; one of a breaker takes no longer than the pause between two either.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

impl Live {
    /// Starts a probe for each Agent that is given up, where one is due. It is done on demand:
    /// nothing runs while nobody asks.
    pub(super) fn probe_where_due(self: &Arc<Self>) {
        for (at, agent) in self.shared.agents.iter().enumerate() {
            if agent.breaker.wants_probe() {
                let timeout = PROBE_TIMEOUT.min(agent.breaker.probe_interval());
                let live = Arc::clone(self);
                self.spawn_probe(async move {
                    live.probe(at, timeout).await;
                });
            }
        }
    }

    /// Asks the health service, which every Agent has; one that has not says so, and is there.
    ///
    /// An Agent that was given up gets a connection of its own for it, which takes the place of the
    /// old one when it is answered on: a connection that packets have vanished from would go on
    /// waiting for them long after the Agent is back.
    pub(super) async fn probe(self: &Arc<Self>, at: usize, timeout: Duration) -> bool {
        let breaker = &self.shared.agents.get(at).breaker;
        self.shared.counters.probes.add(1);
        let fresh = if breaker.is_open() {
            self.connect(at)
        } else {
            None
        };
        let channel = match &fresh {
            Some(fresh) => fresh.clone(),
            None => self.channel(at),
        };
        let answer = self.call_on::<(), ()>(channel, at, HEALTH, Arc::new(()), Some(timeout));
        let there = answer
            .await
            .as_ref()
            .map_or_else(|failure: &Failure| failure.evidence().is_none(), |()| true);
        if there && breaker.is_open() {
            if let Some(fresh) = fresh {
                self.replace(at, fresh);
            }
            if breaker.probed() {
                self.shared.agents.notify();
            }
        }
        there
    }
}
