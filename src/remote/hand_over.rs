//! Checks that go on without a caller, for as long as a grant may still arrive.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::flow::RemoteFlow;
use super::probe::ProbeOutcome;
use super::queue::{WorkerPhase, WorkerQueue};
use super::state::RuntimeState;
use crate::flow::FlowError;

/// The most checks without a caller in one runtime. Each Agent has an equal share.
const MAX_HANDED_OVER: usize = 1024;

/// The smallest share of an Agent.
const MIN_SHARE: usize = 128;

/// The least time that a check without a caller has for its answer, whatever the configured grace.
const MIN_GRACE: Duration = Duration::from_millis(100);

/// How long a check is kept for an Agent that answers nothing at all.
const MAX_HOLD: Duration = Duration::from_secs(10);

/// The same, once the client shuts down.
const MAX_HOLD_AT_SHUTDOWN: Duration = Duration::from_secs(2);

/// An Agent that takes longer than this to answer a probe has stalled.
const PROMPT_ANSWER: Duration = Duration::from_millis(50);

/// The pause between two probes.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// The timeout of one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

impl RuntimeState {
    /// Takes over a running check whose caller left or whose time is up. A grant that arrives
    /// within one grace is returned. Then the check is cancelled, so that the Agent does not keep
    /// it in a queue.
    ///
    /// An Agent that answers nothing at all, such as a stopped process, would read the check and
    /// its cancellation together, and might grant a slot that is never returned. A check is
    /// therefore kept until the Agent has answered a probe that was sent after it, for at most
    /// [`MAX_HOLD`]. An Agent that answers the probe but not the check has the check in a queue.
    pub(super) fn hand_over<F>(self: &Arc<Self>, agent_index: usize, call: F)
    where
        F: Future<Output = Result<RemoteFlow, FlowError>> + Send + 'static,
    {
        let counters = &self.shared.counters;
        let share = (MAX_HANDED_OVER / self.shared.agents.len()).max(MIN_SHARE);
        let mut queue = self.queue();
        if queue.phase == WorkerPhase::Closed || queue.handed_over[agent_index] >= share {
            drop(queue);
            counters.checks_cancelled.add(1);
            counters.checks_unsettled.add(1);
            return;
        }
        queue.handed_over[agent_index] += 1;
        drop(queue);
        counters.checks_handed_over.add(1);
        let check = HandedOverCheck {
            runtime: Arc::clone(self),
            agent_index,
            outcome: HandOverOutcome::Unsettled,
        };
        // Spawned in the runtime of its own timers. If that runtime is gone, so is the call.
        self.handle().spawn(check.run(call));
    }

    /// Waits for the answer to a probe that starts from now on, for at most [`MAX_HOLD`], or
    /// [`MAX_HOLD_AT_SHUTDOWN`] once the client shuts down. Returns `true` if one was answered.
    async fn wait_for_probe_answer(self: &Arc<Self>, agent_index: usize) -> bool {
        let probe_answers = &self.probe_answers[agent_index];
        let mut answered_probes = probe_answers.answered_probes.subscribe();
        // The answer to a running probe may be older than the check.
        let running = u64::from(probe_answers.probing.load(SeqCst));
        let required = *answered_probes.borrow_and_update() + running + 1;
        let mut until = Instant::now() + MAX_HOLD;
        while *answered_probes.borrow_and_update() < required {
            if self.shared.availability.is_shut_down() {
                until = until.min(Instant::now() + MAX_HOLD_AT_SHUTDOWN);
            }
            self.probe_until_answered(agent_index);
            if timeout_at(until, answered_probes.changed()).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Probes an Agent until it answers or no check waits for that any more.
    fn probe_until_answered(self: &Arc<Self>, agent_index: usize) {
        if self.probe_answers[agent_index].probing.swap(true, SeqCst) {
            return;
        }
        let guard = ProbingGuard(Arc::clone(self), agent_index);
        self.spawn_probe(agent_index, async move {
            let runtime = Arc::clone(&guard.0);
            let probe_answers = &runtime.probe_answers[agent_index];
            while probe_answers.answered_probes.receiver_count() > 0 {
                if runtime
                    .probe_over(runtime.channel(agent_index), agent_index, PROBE_TIMEOUT)
                    .await
                    == ProbeOutcome::Answered
                {
                    // Dropped before the count changes: a woken check may start the next probe.
                    drop(guard);
                    probe_answers
                        .answered_probes
                        .send_modify(|answered_probes| *answered_probes += 1);
                    return;
                }
                tokio::time::sleep(PROBE_PAUSE).await;
            }
        });
    }
}

/// Resets the mark that a probe of the Agent is running.
struct ProbingGuard(Arc<RuntimeState>, usize);

impl Drop for ProbingGuard {
    fn drop(&mut self) {
        self.0.probe_answers[self.1].probing.store(false, SeqCst);
    }
}

/// A check that runs without its caller.
struct HandedOverCheck {
    runtime: Arc<RuntimeState>,
    agent_index: usize,
    outcome: HandOverOutcome,
}

/// Whether a check may have left a slot taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HandOverOutcome {
    /// The check was answered, or failed by itself.
    Settled,
    /// The check was cancelled while the Agent was able to read the cancellation.
    Cancelled,
    /// The check has ended, and the Agent may have granted a slot.
    Unsettled,
}

impl HandedOverCheck {
    async fn run<F>(mut self, call: F)
    where
        F: Future<Output = Result<RemoteFlow, FlowError>>,
    {
        let runtime = Arc::clone(&self.runtime);
        let grace = runtime.shared.config.check_grace;
        let grace = grace.clamp(MIN_GRACE, MAX_HOLD);
        let mut call = pin!(call);
        if let Ok(answer) = timeout(grace, call.as_mut()).await {
            return self.settle(answer);
        }
        let started = Instant::now();
        let probe_answered = pin!(runtime.wait_for_probe_answer(self.agent_index));
        let probe_answered = match first_ready(call.as_mut(), probe_answered).await {
            FirstReady::Check(answer) => return self.settle(answer),
            FirstReady::Probe(probe_answered) => probe_answered,
        };
        // An Agent that stalled answers its pending requests in order: the probe, then the check.
        if started.elapsed() > PROMPT_ANSWER
            && let Ok(answer) = timeout(grace, call.as_mut()).await
        {
            return self.settle(answer);
        }
        if probe_answered {
            self.outcome = HandOverOutcome::Cancelled;
        }
    }

    fn settle(&mut self, answer: Result<RemoteFlow, FlowError>) {
        self.outcome = HandOverOutcome::Settled;
        if let Ok(flow) = answer {
            flow.end_abandoned();
        }
    }
}

impl Drop for HandedOverCheck {
    fn drop(&mut self) {
        let counters = &self.runtime.shared.counters;
        if self.outcome != HandOverOutcome::Settled {
            counters.checks_cancelled.add(1);
        }
        if self.outcome == HandOverOutcome::Unsettled {
            counters.checks_unsettled.add(1);
        }
        let mut queue = self.runtime.queue();
        queue.handed_over[self.agent_index] -= 1;
        if queue.phase != WorkerPhase::Open {
            WorkerQueue::wake(queue);
        }
    }
}

enum FirstReady<T> {
    Check(T),
    Probe(bool),
}

/// Waits for either future. The answer of the call has precedence.
async fn first_ready<A: Future>(
    mut call: Pin<&mut A>,
    mut probe_answered: Pin<&mut impl Future<Output = bool>>,
) -> FirstReady<A::Output> {
    poll_fn(|cx| match call.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(FirstReady::Check(answer)),
        Poll::Pending => probe_answered.as_mut().poll(cx).map(FirstReady::Probe),
    })
    .await
}
