//! Asks Agents for a sign of life, by their health service.
//!
//! A probe never waits behind checks: an Agent whose checks fail, or that is given up, is asked on
//! a connection of its own as well. It counts as answered whatever the answer says, `UNIMPLEMENTED`
//! included, except for the statuses that stand for no answer.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::breaker::Suspicion;
use super::call::HEALTH;
use super::live::Live;
use super::transport::Transport;

/// How long a probe of an Agent that is given up, or that somebody waits for, may take at first.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(2);

/// What it may take beyond connecting, once probes have failed.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// The longest that a probe may take, whatever the connect timeout is.
const LONGEST_PATIENCE: Duration = Duration::from_secs(60);

/// Between two attempts to get an answer that somebody waits for.
const PROBE_PAUSE: Duration = Duration::from_millis(50);

/// How long the probes of an examination may take.
const EXAMINATION: Duration = Duration::from_secs(1);

/// Examinations in a row that a process may spoil that stands still itself.
const MAX_EXAMINATIONS: u32 = 3;

/// Parts that the time of a probe is divided into.
const SLICES: u32 = 20;

/// What came of asking for a sign of life.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// The Agent answered.
    There,
    /// It did not, for this reason.
    Missing(Cow<'static, str>),
    /// It did not, but this process stood still meanwhile.
    Unclear,
}

impl Live {
    /// Starts a probe of each Agent that is given up, where one is due. Only work that looks for an
    /// Agent calls this: an idle client does not probe.
    pub(super) fn probe_where_due(self: &Arc<Self>) {
        for (at, agent) in self.shared.agents.iter().enumerate() {
            if agent.breaker.wants_probe() {
                let live = Arc::clone(self);
                self.spawn_probe(at, async move {
                    live.probe(at, false).await;
                });
            }
        }
    }

    /// Asks all Agents until one answers; returns `false` when the client shuts down first.
    pub(super) async fn until_answered(self: &Arc<Self>) -> bool {
        let shared = &self.shared;
        let mut again = false;
        while !shared.health.is_shut_down() {
            // Dropped with the first answer: nobody waits for the others.
            let mut probes = JoinSet::new();
            for at in 0..shared.agents.len() {
                let live = Arc::clone(self);
                probes.spawn(async move { live.probe(at, again).await });
            }
            while let Some(there) = probes.join_next().await {
                if there.unwrap_or(false) {
                    return !shared.health.is_shut_down();
                }
            }
            again = true;
            tokio::time::sleep(PROBE_PAUSE).await;
        }
        false
    }

    /// Returns `true` when the Agent answers. `again` says that it did not just before.
    pub(super) async fn probe(&self, at: usize, again: bool) -> bool {
        let agent = self.shared.agents.get(at);
        if agent.breaker.is_open() {
            return self.probe_given_up(at).await;
        }
        let sign = if again {
            self.look(at, SHORTEST_PATIENCE).await
        } else {
            self.sign(self.channel(at), at, SHORTEST_PATIENCE).await
        };
        if sign == Sign::There {
            self.found(at);
        }
        sign == Sign::There
    }

    /// Asks on a new connection, which replaces the old one when the Agent answers: a connection
    /// that packets vanished from waits long after the Agent is back.
    async fn probe_given_up(&self, at: usize) -> bool {
        let breaker = &self.shared.agents.get(at).breaker;
        let longest = match self.shared.config.connect() {
            Some(connect) => {
                let connected = connect.connect_timeout.min(LONGEST_PATIENCE);
                connected + ANSWER_TIME
            }
            None => SHORTEST_PATIENCE,
        };
        let patience = breaker.patience(SHORTEST_PATIENCE, longest);
        let fresh = self.connect(at);
        let channel = match &fresh {
            Some(fresh) => fresh.clone(),
            None => self.channel(at),
        };
        let there = self.sign(channel, at, patience).await == Sign::There;
        if !there {
            breaker.missed();
        } else if breaker.is_open() {
            if let Some(fresh) = fresh {
                self.replace(at, fresh);
            }
            self.found(at);
        }
        there
    }

    /// Examines an Agent whose checks failed, for the reason `checks`.
    pub(super) fn examine(self: &Arc<Self>, at: usize, suspicion: Suspicion, checks: &str) {
        let examination = Examination {
            live: Arc::clone(self),
            at,
            suspicion,
            checks: checks.to_owned(),
        };
        self.spawn_probe(at, examination.run());
    }

    /// Asks on the connection that checks use and on a new one. When only the new one brings an
    /// answer, it replaces the old one.
    async fn look(&self, at: usize, patience: Duration) -> Sign {
        let old = self.sign(self.channel(at), at, patience);
        let Some(fresh) = self.connect(at) else {
            return old.await;
        };
        let new = self.sign(fresh.clone(), at, patience);
        let (mut old, mut new) = (pin!(old), pin!(new));
        let (mut on_old, mut on_new) = (None, None);
        poll_fn(|cx| {
            poll_once(&mut on_old, || old.as_mut().poll(cx));
            poll_once(&mut on_new, || new.as_mut().poll(cx));
            let there = [&on_old, &on_new].contains(&&Some(Sign::There));
            if there || (on_old.is_some() && on_new.is_some()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        if on_new == Some(Sign::There) {
            self.found(at);
            let on_old = match on_old {
                Some(sign) => sign,
                None => old.await,
            };
            if matches!(on_old, Sign::Missing(_)) {
                self.replace(at, fresh);
            }
            return Sign::There;
        }
        match (on_old, on_new) {
            (Some(Sign::There), _) => Sign::There,
            (Some(Sign::Unclear), _) | (_, Some(Sign::Unclear)) => Sign::Unclear,
            (_, Some(missing)) | (Some(missing), None) => missing,
            (None, None) => Sign::Unclear, // Never: one of them ended the wait.
        }
    }

    /// Asks the health service on this connection.
    pub(super) async fn sign(&self, transport: Transport, at: usize, patience: Duration) -> Sign {
        self.shared.counters.probes.add(1);
        let call = self.call_on::<(), ()>(transport, at, HEALTH, Arc::new(()), None);
        let (answer, stood_still) = patiently(patience, call).await;
        match answer {
            Some(Ok(())) => Sign::There,
            Some(Err(failure)) if failure.evidence().is_none() => Sign::There,
            _ if stood_still => Sign::Unclear,
            Some(Err(failure)) => Sign::Missing(failure.message),
            None => Sign::Missing(format!("no answer within {patience:?}").into()),
        }
    }

    /// The Agent answered a probe: if it was given up, it is asked again.
    fn found(&self, at: usize) {
        let agent = self.shared.agents.get(at);
        if let Some(_away) = agent.breaker.alive() {
            agent.returned();
            #[cfg(feature = "metrics")]
            agent.away.set(false);
            log_event!(
                info,
                agent = agent.address(),
                away = ?_away,
                "the Aperture agent answers a health probe: it is asked again"
            );
            self.shared.agents.notify();
        }
    }
}

/// An Agent under suspicion. Dropped without a verdict, it lets another examination start.
struct Examination {
    live: Arc<Live>,
    at: usize,
    suspicion: Suspicion,
    /// Why its checks failed; only logs say it.
    #[cfg_attr(not(feature = "tracing"), allow(dead_code))]
    checks: String,
}

impl Examination {
    async fn run(self) {
        let breaker = &self.live.shared.agents.get(self.at).breaker;
        for _ in 0..MAX_EXAMINATIONS {
            match self.live.look(self.at, EXAMINATION).await {
                Sign::There => {
                    self.live.found(self.at);
                    breaker.acquit(&self.suspicion);
                    return;
                }
                Sign::Missing(reason) => return self.condemn(&reason),
                Sign::Unclear => {}
            }
        }
    }

    #[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
    fn condemn(&self, reason: &str) {
        let shared = &self.live.shared;
        let agent = shared.agents.get(self.at);
        if !agent.breaker.condemn(&self.suspicion) {
            return;
        }
        #[cfg(feature = "metrics")]
        agent.away.set(true);
        shared.counters.agents_given_up.add(1);
        let follows = if shared.agents.iter().all(|agent| agent.breaker.is_open()) {
            "requests run without limits, or are refused in ramp mode and where a layer fails closed"
        } else {
            "flows go to the other agents"
        };
        log_event!(
            warn,
            agent = agent.address(),
            reason,
            checks = self.checks,
            "the Aperture agent is given up, because its checks and a health probe failed: until \
             it answers a probe, {follows}"
        );
        // Work in the background that waits for this Agent looks for another.
        shared.agents.notify();
    }
}

impl Drop for Examination {
    fn drop(&mut self) {
        // Changes nothing after a verdict, which has put off the next examination.
        let agent = self.live.shared.agents.get(self.at);
        agent.breaker.abandon(&self.suspicion);
    }
}

/// Polls a future until it has an outcome.
fn poll_once<T>(outcome: &mut Option<T>, poll: impl FnOnce() -> Poll<T>) {
    if outcome.is_none()
        && let Poll::Ready(ready) = poll()
    {
        *outcome = Some(ready);
    }
}

/// Waits for `future` no longer than `patience`, not counting the time that this process stood
/// still; says whether it did.
///
/// The time passes in slices, each with a timer of its own. A process that was stopped finds the
/// answers and the end of one slice at the same moment, and then has the other slices to read them.
async fn patiently<F: Future>(patience: Duration, future: F) -> (Option<F::Output>, bool) {
    let slice = (patience / SLICES).max(Duration::from_millis(1));
    let mut future = pin!(future);
    let mut stood_still = false;
    for _ in 0..SLICES {
        let begun = Instant::now();
        let outcome = tokio::time::timeout(slice, future.as_mut()).await;
        stood_still |= begun.elapsed() > slice.saturating_mul(3);
        if let Ok(outcome) = outcome {
            return (Some(outcome), stood_still);
        }
    }
    (None, stood_still)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn patience_ends_on_time_where_nothing_stands_still() {
        let begun = Instant::now();
        let waited = patiently(Duration::from_secs(1), std::future::pending::<()>()).await;
        assert_eq!(waited, (None, false));
        assert!(begun.elapsed() >= Duration::from_secs(1));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_stood_still_has_time_left_to_read_the_answer() {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let asking = tokio::spawn(patiently(Duration::from_secs(1), answered));
        tokio::task::yield_now().await;
        // The whole patience passes at once, and the answer is read a moment later.
        tokio::time::advance(Duration::from_secs(60)).await;
        tokio::task::yield_now().await;
        answer.send(7).expect("somebody waits");
        let (answer, stood_still) = asking.await.expect("no panic");
        assert_eq!(answer, Some(Ok(7)));
        assert!(stood_still);
    }
}
