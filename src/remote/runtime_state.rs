//! The operations on the state of one runtime: connections, queued work, probes, and its end.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering::SeqCst;

use super::cache_write::CacheWrite;
use super::end_job::EndJob;
use super::queue::{WorkerPhase, WorkerQueue};
use super::state::{AgentChannel, RuntimeState};
use super::transport::AgentTransport;
use crate::flow::EndError;
use crate::telemetry::{SpanBatch, SpanPush};

/// The largest number of probes of one Agent at a time. It is enough for a probe interval of a few
/// milliseconds while the Agent hangs.
const MAX_PROBES: usize = 64;

/// The result of adding work to the queue of a runtime.
#[must_use]
pub(super) enum PushResult<T> {
    Queued,
    /// Returns the work with the reason.
    Refused(T, EndError),
}

impl RuntimeState {
    /// Returns the connections to an Agent. They are replaced if another runtime has replaced its
    /// own since.
    pub(super) fn channel(&self, agent_index: usize) -> AgentTransport {
        let mut current = self.current_channel(agent_index);
        let generation = self.shared.agents.get(agent_index).generation();
        if current.generation != generation
            && let Some(transport) = self.connect(agent_index)
        {
            let old = std::mem::replace(
                &mut *current,
                AgentChannel {
                    transport,
                    generation,
                },
            );
            let new = current.transport.clone();
            // Dropping closes connections, which wakes their tasks. This must not happen under the
            // lock.
            drop(current);
            drop(old);
            return new;
        }
        current.transport.clone()
    }

    /// Returns new connections to an Agent, or `None` if the user provided the channel.
    pub(super) fn connect(&self, agent_index: usize) -> Option<AgentTransport> {
        let connect = self.shared.config.connect()?;
        let pool = self
            .shared
            .agents
            .get(agent_index)
            .pool(connect, self.handle())?;
        Some(AgentTransport::Own(pool))
    }

    /// Replaces the connections to an Agent. Other runtimes then make new connections as well.
    pub(super) fn replace(&self, agent_index: usize, transport: AgentTransport) {
        let mut current = self.current_channel(agent_index);
        let generation = self.shared.agents.get(agent_index).next_generation();
        let new = AgentChannel {
            transport,
            generation,
        };
        let old = std::mem::replace(&mut *current, new);
        drop(current);
        drop(old);
    }

    /// Runs a probe until this state is closed. Drops the probe if [`MAX_PROBES`] of the Agent run
    /// already.
    pub(super) fn spawn_probe(
        &self,
        agent_index: usize,
        probe: impl Future<Output = ()> + Send + 'static,
    ) {
        let mut probes = self.probes();
        let Some(probes) = probes.get_mut(agent_index) else {
            drop(probes);
            return drop(probe);
        };
        while probes.try_join_next().is_some() {}
        if probes.len() < MAX_PROBES {
            probes.spawn_on(probe, self.handle());
        }
    }

    /// Queues an end for the worker.
    pub(super) fn push_end(&self, job: EndJob) -> PushResult<EndJob> {
        let mut queue = self.queue();
        if queue.phase == WorkerPhase::Closed {
            return PushResult::Refused(job, EndError::ShutDown);
        }
        if let Err(job) = queue.ends.push(job) {
            return PushResult::Refused(job, EndError::QueueFull);
        }
        WorkerQueue::wake(queue);
        PushResult::Queued
    }

    /// Queues a cache write for the worker.
    pub(super) fn push_cache_write(&self, write: CacheWrite) -> PushResult<CacheWrite> {
        let mut queue = self.queue();
        if queue.phase == WorkerPhase::Closed {
            return PushResult::Refused(write, EndError::ShutDown);
        }
        if let Some(write) = queue.cache_writes.push(write) {
            return PushResult::Refused(write, EndError::QueueFull);
        }
        WorkerQueue::wake(queue);
        PushResult::Queued
    }

    /// Queues an encoded span for the worker. Wakes the worker only to start its timer or for a full
    /// batch.
    pub(super) fn push_span<'s>(&self, span: &'s [u8]) -> PushResult<&'s [u8]> {
        let mut queue = self.queue();
        if queue.phase == WorkerPhase::Closed {
            return PushResult::Refused(span, EndError::ShutDown);
        }
        let pushed = queue.spans.push(span);
        if pushed == SpanPush::Refused {
            return PushResult::Refused(span, EndError::QueueFull);
        }
        if pushed == SpanPush::QueuedForWorker || queue.phase == WorkerPhase::Draining {
            WorkerQueue::wake(queue);
        }
        PushResult::Queued
    }

    /// Queues spans of another runtime for the worker.
    pub(super) fn push_span_batch(&self, batch: SpanBatch) -> PushResult<SpanBatch> {
        let mut queue = self.queue();
        if queue.phase == WorkerPhase::Closed {
            return PushResult::Refused(batch, EndError::ShutDown);
        }
        if let Some(batch) = queue.spans.push_batch(batch) {
            return PushResult::Refused(batch, EndError::QueueFull);
        }
        WorkerQueue::wake(queue);
        PushResult::Queued
    }

    /// Asks the worker to end once its work is done. Closes this state at once if no work is left.
    pub(super) fn drain(&self) {
        let mut queue = self.queue();
        if queue.phase == WorkerPhase::Open {
            queue.phase = WorkerPhase::Draining;
        }
        if queue.phase == WorkerPhase::Draining && self.shared.open_flows() == 0 && queue.is_done()
        {
            // Set under the lock, so that later work is refused.
            queue.phase = WorkerPhase::Closed;
        }
        let done = queue.phase == WorkerPhase::Closed;
        WorkerQueue::wake(queue);
        if done {
            self.close();
        }
        for answers in &self.probe_answers {
            answers.wake_waiting_checks();
        }
    }

    /// Ends the worker at once, and counts its queued work as dropped.
    pub(super) fn abort(&self) {
        let mut queue = self.queue();
        queue.phase = WorkerPhase::Closed;
        let work = queue.take_work();
        WorkerQueue::wake(queue);
        self.shared.count_dropped(&work);
        self.close();
    }

    /// Waits until this state is closed.
    pub(super) async fn wait_closed(&self) {
        loop {
            let mut closed = pin!(self.closed_notify.notified());
            closed.as_mut().enable();
            if self.is_closed.load(SeqCst) {
                return;
            }
            closed.await;
        }
    }

    /// Closes this state. Work that is still queued because the runtime ends moves to another
    /// runtime.
    pub(super) fn close(&self) {
        let probes = std::mem::take(&mut *self.probes());
        drop(probes);
        let mut queue = self.queue();
        queue.phase = WorkerPhase::Closed;
        let work = queue.take_work();
        drop(queue);
        self.shared.move_work(work);
        // Last: a shutdown waits for the registered states only, and must not miss work that is
        // being moved.
        self.shared.remove_runtime(self);
        self.is_closed.store(true, SeqCst);
        self.closed_notify.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::runtime::Handle;

    use super::super::config::{RemoteConfig, RemoteTarget};
    use super::super::state::Remote;
    use super::*;
    use crate::messages::check::InflightRequestRef;

    /// A runtime state without a worker, so that its queue is never emptied.
    fn stalled(remote: &Remote) -> RuntimeState {
        let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        RuntimeState::new(
            Arc::clone(remote.shared()),
            Handle::current(),
            [AgentChannel {
                transport: AgentTransport::Ready(channel),
                generation: 0,
            }],
        )
    }

    fn remote() -> Remote {
        let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        Remote::new(RemoteConfig {
            target: RemoteTarget::Ready(channel),
            api_key: None,
            check_timeout: None,
            check_grace: Duration::ZERO,
            end_timeout: None,
            breaker: crate::remote::BreakerConfig::default(),
            compression: None,
            telemetry: true,
        })
    }

    fn job(control_point: &str, refs: usize) -> EndJob {
        let refs = vec![InflightRequestRef::default(); refs];
        EndJob::new(control_point.to_owned(), 0, None, refs)
    }

    #[tokio::test]
    async fn a_full_queue_refuses_ends_and_closing_counts_lost_ones() {
        let remote = remote();
        let runtime = stalled(&remote);
        let mut queued = 0;
        let refused = loop {
            match runtime.push_end(job("a", 1)) {
                PushResult::Queued => queued += 1,
                PushResult::Refused(_, error) => break error,
            }
        };
        assert_eq!(refused, EndError::QueueFull);
        runtime.close();
        let mut stats = crate::ClientStats::default();
        remote.add_stats(&mut stats);
        assert_eq!(stats.ends_dropped, queued, "there is no other runtime");
        assert!(matches!(
            runtime.push_end(job("a", 1)),
            PushResult::Refused(_, EndError::ShutDown)
        ));
    }
}
