//! Probes Agents by their gRPC health service.
//!
//! A probe never waits behind checks: if the checks of an Agent fail, or it is given up, it is
//! probed on a new connection as well. Any response counts as an answer, `UNIMPLEMENTED` included,
//! except for the statuses that stand for no answer.

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
use super::message::OutgoingMessage;
use super::state::RuntimeState;
use super::transport::AgentTransport;

/// The first timeout of a probe of an Agent that is given up, or whose answer a caller waits for.
const MIN_PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The time allowed for the answer beyond connecting, once probes have failed.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// The longest connect timeout that a probe allows, whatever is configured.
const MAX_CONNECT_TIME: Duration = Duration::from_secs(60);

/// The pause between two probes whose answer a caller waits for.
const PROBE_PAUSE: Duration = Duration::from_millis(50);

/// The timeout of a confirmation probe.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(1);

/// How many confirmation probes may follow one another while this process stalls.
const MAX_CONFIRMATION_PROBES: u32 = 3;

/// The number of slices into which the timeout of a probe is divided.
const SLICES: u32 = 20;

/// The outcome of a probe.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ProbeOutcome {
    /// The Agent answered.
    Answered,
    /// The Agent did not answer, for this reason.
    NoAnswer(Cow<'static, str>),
    /// The Agent did not answer, but this process stalled meanwhile.
    Stalled,
}

impl RuntimeState {
    /// Starts a probe of each Agent that is given up and whose probe is due. Only work that needs
    /// an Agent calls this, so that an idle client does not probe.
    pub(super) fn start_due_probes(self: &Arc<Self>) {
        for (agent_index, agent) in self.shared.agents.iter().enumerate() {
            if agent.breaker.take_due_probe() {
                let runtime = Arc::clone(self);
                self.spawn_probe(agent_index, async move {
                    runtime.probe(agent_index, false).await;
                });
            }
        }
    }

    /// Probes all Agents until one answers. Returns `false` if the client shuts down first.
    pub(super) async fn wait_until_answered(self: &Arc<Self>) -> bool {
        let shared = &self.shared;
        let mut retry = false;
        while !shared.availability.is_shut_down() {
            // Dropped with the first answer, which cancels the other probes.
            let mut probes = JoinSet::new();
            for agent_index in 0..shared.agents.len() {
                let runtime = Arc::clone(self);
                probes.spawn(async move { runtime.probe(agent_index, retry).await });
            }
            while let Some(answered) = probes.join_next().await {
                if answered.unwrap_or(false) {
                    return !shared.availability.is_shut_down();
                }
            }
            retry = true;
            tokio::time::sleep(PROBE_PAUSE).await;
        }
        false
    }

    /// Returns `true` if the Agent answers. `retry` means that a probe just failed; then a new
    /// connection is tried as well.
    pub(super) async fn probe(&self, agent_index: usize, retry: bool) -> bool {
        let agent = self.shared.agents.get(agent_index);
        if agent.breaker.is_open() {
            return self.probe_given_up(agent_index).await;
        }
        let outcome = if retry {
            self.probe_both(agent_index, MIN_PROBE_TIMEOUT).await
        } else {
            self.probe_over(self.channel(agent_index), agent_index, MIN_PROBE_TIMEOUT)
                .await
        };
        if outcome == ProbeOutcome::Answered {
            self.record_probe_answer(agent_index);
        }
        outcome == ProbeOutcome::Answered
    }

    /// Probes the Agent on a new connection, which replaces the old one if the Agent answers: a
    /// connection whose packets were lost would wait long after the Agent has returned.
    async fn probe_given_up(&self, agent_index: usize) -> bool {
        let breaker = &self.shared.agents.get(agent_index).breaker;
        let longest = match self.shared.config.connect() {
            Some(connect) => {
                let connected = connect.connect_timeout.min(MAX_CONNECT_TIME);
                connected + ANSWER_TIME
            }
            None => MIN_PROBE_TIMEOUT,
        };
        let timeout = breaker.probe_timeout(MIN_PROBE_TIMEOUT, longest);
        let fresh = self.connect(agent_index);
        let channel = match &fresh {
            Some(fresh) => fresh.clone(),
            None => self.channel(agent_index),
        };
        let answered =
            self.probe_over(channel, agent_index, timeout).await == ProbeOutcome::Answered;
        if !answered {
            breaker.record_missed_probe();
        } else if breaker.is_open() {
            if let Some(fresh) = fresh {
                self.replace(agent_index, fresh);
            }
            self.record_probe_answer(agent_index);
        }
        answered
    }

    /// Starts a confirmation probe of an Agent whose checks failed for the reason `check_failure`.
    pub(super) fn start_confirmation_probe(
        self: &Arc<Self>,
        agent_index: usize,
        suspicion: Suspicion,
        check_failure: &str,
    ) {
        let confirmation = ConfirmationProbe {
            runtime: Arc::clone(self),
            agent_index,
            suspicion,
            check_failure: check_failure.to_owned(),
        };
        self.spawn_probe(agent_index, confirmation.run());
    }

    /// Probes the Agent on the connection that checks use and on a new one. If only the new one
    /// brings an answer, it replaces the old one.
    async fn probe_both(&self, agent_index: usize, timeout: Duration) -> ProbeOutcome {
        let old = self.probe_over(self.channel(agent_index), agent_index, timeout);
        let Some(fresh) = self.connect(agent_index) else {
            return old.await;
        };
        let new = self.probe_over(fresh.clone(), agent_index, timeout);
        let (mut old, mut new) = (pin!(old), pin!(new));
        let (mut on_old, mut on_new) = (None, None);
        poll_fn(|cx| {
            poll_once(&mut on_old, || old.as_mut().poll(cx));
            poll_once(&mut on_new, || new.as_mut().poll(cx));
            let answered = [&on_old, &on_new].contains(&&Some(ProbeOutcome::Answered));
            if answered || (on_old.is_some() && on_new.is_some()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        if on_new == Some(ProbeOutcome::Answered) {
            self.record_probe_answer(agent_index);
            let on_old = match on_old {
                Some(outcome) => outcome,
                None => old.await,
            };
            if matches!(on_old, ProbeOutcome::NoAnswer(_)) {
                self.replace(agent_index, fresh);
            }
            return ProbeOutcome::Answered;
        }
        match (on_old, on_new) {
            (Some(ProbeOutcome::Answered), _) => ProbeOutcome::Answered,
            (Some(ProbeOutcome::Stalled), _) | (_, Some(ProbeOutcome::Stalled)) => {
                ProbeOutcome::Stalled
            }
            (_, Some(outcome)) | (Some(outcome), None) => outcome,
            (None, None) => ProbeOutcome::Stalled, // Unreachable: one of them ended the wait.
        }
    }

    /// Calls the health service over this transport.
    pub(super) async fn probe_over(
        &self,
        transport: AgentTransport,
        agent_index: usize,
        timeout: Duration,
    ) -> ProbeOutcome {
        self.shared.counters.probes.add(1);
        let message = OutgoingMessage::new(&());
        let call = self.call_over::<()>(transport, agent_index, HEALTH, &message, None);
        let (answer, stalled) = timeout_excluding_stalls(timeout, call).await;
        match answer {
            Some(Ok(())) => ProbeOutcome::Answered,
            Some(Err(failure)) if failure.failure_kind().is_none() => ProbeOutcome::Answered,
            _ if stalled => ProbeOutcome::Stalled,
            Some(Err(failure)) => ProbeOutcome::NoAnswer(failure.message),
            None => ProbeOutcome::NoAnswer(format!("no answer within {timeout:?}").into()),
        }
    }

    /// Records an answered probe. If the Agent was given up, it gets checks again.
    fn record_probe_answer(&self, agent_index: usize) {
        let agent = self.shared.agents.get(agent_index);
        if let Some(away) = agent.breaker.record_probe_answer() {
            agent.mark_returned();
            agent.given_up_gauge.set(false);
            log_event!(
                info,
                agent = agent.address(),
                away = ?away,
                "the Aperture agent answers a health probe: it is asked again"
            );
            self.shared.agents.notify();
        }
    }
}

/// The confirmation probe of a suspected Agent. If it is dropped without a result, another one may
/// start.
struct ConfirmationProbe {
    runtime: Arc<RuntimeState>,
    agent_index: usize,
    suspicion: Suspicion,
    /// Why the checks failed. Only used in logs.
    check_failure: String,
}

impl ConfirmationProbe {
    async fn run(self) {
        let breaker = &self.runtime.shared.agents.get(self.agent_index).breaker;
        for _ in 0..MAX_CONFIRMATION_PROBES {
            match self
                .runtime
                .probe_both(self.agent_index, CONFIRMATION_TIMEOUT)
                .await
            {
                ProbeOutcome::Answered => {
                    self.runtime.record_probe_answer(self.agent_index);
                    breaker.confirm_alive(&self.suspicion);
                    return;
                }
                ProbeOutcome::NoAnswer(reason) => return self.confirm_away(&reason),
                ProbeOutcome::Stalled => {}
            }
        }
    }

    fn confirm_away(&self, reason: &str) {
        let shared = &self.runtime.shared;
        let agent = shared.agents.get(self.agent_index);
        if !agent.breaker.confirm_away(&self.suspicion) {
            return;
        }
        agent.given_up_gauge.set(true);
        shared.counters.agents_given_up.add(1);
        let follows = if shared.agents.iter().all(|agent| agent.breaker.is_open()) {
            "requests run without limits, or are rejected in ramp mode and if a layer fails closed"
        } else {
            "flows go to the other agents"
        };
        log_event!(
            warn,
            agent = agent.address(),
            reason,
            checks = self.check_failure,
            "the Aperture agent is given up, because its checks and a health probe failed: until \
             it answers a probe, {follows}"
        );
        // Background work that waits for this Agent looks for another one.
        shared.agents.notify();
    }
}

impl Drop for ConfirmationProbe {
    fn drop(&mut self) {
        // No effect after a conclusion, which has postponed the next confirmation probe.
        let agent = self.runtime.shared.agents.get(self.agent_index);
        agent.breaker.abandon_suspicion(&self.suspicion);
    }
}

/// Polls a future until it has an output.
fn poll_once<T>(outcome: &mut Option<T>, poll: impl FnOnce() -> Poll<T>) {
    if outcome.is_none()
        && let Poll::Ready(ready) = poll()
    {
        *outcome = Some(ready);
    }
}

/// Waits for `future` no longer than `timeout`, not counting the time for which this process
/// stalled. Also returns whether it stalled.
///
/// The time passes in slices, each with its own timer. A process that was stopped finds the answers
/// and the end of one slice at the same moment, and then has the other slices to read the answers.
async fn timeout_excluding_stalls<F: Future>(
    timeout: Duration,
    future: F,
) -> (Option<F::Output>, bool) {
    let slice = (timeout / SLICES).max(Duration::from_millis(1));
    let mut future = pin!(future);
    let mut stalled = false;
    for _ in 0..SLICES {
        let started = Instant::now();
        let outcome = tokio::time::timeout(slice, future.as_mut()).await;
        stalled |= started.elapsed() > slice.saturating_mul(3);
        if let Ok(outcome) = outcome {
            return (Some(outcome), stalled);
        }
    }
    (None, stalled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_timeout_ends_on_time_without_a_stall() {
        let started = Instant::now();
        let waited =
            timeout_excluding_stalls(Duration::from_secs(1), std::future::pending::<()>()).await;
        assert_eq!(waited, (None, false));
        assert!(started.elapsed() >= Duration::from_secs(1));
        assert!(started.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_process_has_time_left_to_read_the_answer() {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let waiting = tokio::spawn(timeout_excluding_stalls(Duration::from_secs(1), answered));
        tokio::task::yield_now().await;
        // The whole timeout passes at once, and the answer is read a moment later.
        tokio::time::advance(Duration::from_secs(60)).await;
        tokio::task::yield_now().await;
        answer.send(7).expect("the receiver waits");
        let (answer, stalled) = waiting.await.expect("no panic");
        assert_eq!(answer, Some(Ok(7)));
        assert!(stalled);
    }
}
