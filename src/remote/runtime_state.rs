//! The state of the client in one runtime: its connections and the queue of its worker.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::RemoteShared;
use super::cache_write::CacheWrite;
use super::flow_end::EndJob;
use super::hand_over::ProbeAnswers;
use super::queue::{WorkerPhase, WorkerQueue};
use super::transport::AgentTransport;
use crate::flow::EndError;
#[cfg(feature = "telemetry")]
use crate::telemetry::SpanRecord;

/// The largest number of probes of one Agent at a time. It is enough for a probe interval of a few
/// milliseconds while the Agent hangs.
const MAX_PROBES: usize = 64;

/// The state of the client in one runtime.
pub(super) struct RuntimeState {
    pub(super) shared: Arc<RemoteShared>,
    handle: Handle,
    id: Id,
    /// One entry for each Agent.
    channel_pools: Box<[ChannelPool]>,
    probe_answers: Box<[ProbeAnswers]>,
    queue: Mutex<WorkerQueue>,
    /// One set for each Agent; empty once this state is closed.
    probes: Mutex<Box<[JoinSet<()>]>>,
    closed_notify: Notify,
    is_closed: AtomicBool,
}

/// The connections to one Agent.
pub(super) struct ChannelPool(Mutex<CurrentTransport>);

struct CurrentTransport {
    transport: AgentTransport,
    generation: u64,
}

/// The result of adding work to the queue of a runtime.
#[must_use]
pub(super) enum PushResult<T> {
    Queued,
    /// Returns the work with the reason.
    Refused(T, EndError),
}

impl RuntimeState {
    pub(super) fn new(
        shared: Arc<RemoteShared>,
        handle: Handle,
        channel_pools: Box<[ChannelPool]>,
    ) -> Self {
        let agents = channel_pools.len();
        Self {
            shared,
            id: handle.id(),
            handle,
            channel_pools,
            probe_answers: (0..agents).map(|_| ProbeAnswers::new()).collect(),
            queue: Mutex::new(WorkerQueue::new(agents)),
            probes: Mutex::new((0..agents).map(|_| JoinSet::new()).collect()),
            closed_notify: Notify::new(),
            is_closed: AtomicBool::new(false),
        }
    }

    pub(super) const fn runtime_id(&self) -> Id {
        self.id
    }

    pub(super) const fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(super) fn probe_answers(&self, agent_index: usize) -> &ProbeAnswers {
        &self.probe_answers[agent_index]
    }

    /// Returns the connections to an Agent. They are replaced if another runtime has replaced its
    /// own since.
    pub(super) fn channel(&self, agent_index: usize) -> AgentTransport {
        let mut current = self.channel_pools[agent_index].current();
        let generation = self.shared.agents.get(agent_index).generation();
        if current.generation != generation
            && let Some(transport) = self.connect(agent_index)
        {
            let old = std::mem::replace(
                &mut *current,
                CurrentTransport {
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
            .pool(connect, &self.handle)?;
        Some(AgentTransport::Own(pool))
    }

    /// Replaces the connections to an Agent. Other runtimes then make new connections as well.
    pub(super) fn replace(&self, agent_index: usize, transport: AgentTransport) {
        let mut current = self.channel_pools[agent_index].current();
        let generation = self.shared.agents.get(agent_index).next_generation();
        let new = CurrentTransport {
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
            probes.spawn_on(probe, &self.handle);
        }
    }

    fn probes(&self) -> MutexGuard<'_, Box<[JoinSet<()>]>> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, WorkerQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Queues a span for the worker. Wakes the worker only to start its timer or for a full batch.
    #[cfg(feature = "telemetry")]
    pub(super) fn push_span(&self, span: SpanRecord) -> PushResult<SpanRecord> {
        let mut queue = self.queue();
        if queue.phase == WorkerPhase::Closed {
            return PushResult::Refused(span, EndError::ShutDown);
        }
        if let Some(span) = queue.spans.push(span) {
            return PushResult::Refused(span, EndError::QueueFull);
        }
        if queue.spans.wants_worker() || queue.phase == WorkerPhase::Draining {
            WorkerQueue::wake(queue);
        }
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

impl ChannelPool {
    pub(super) const fn new(transport: AgentTransport, generation: u64) -> Self {
        Self(Mutex::new(CurrentTransport {
            transport,
            generation,
        }))
    }

    fn current(&self) -> MutexGuard<'_, CurrentTransport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Remote, RemoteConfig, RemoteTarget};
    use super::*;
    use crate::pb::check::InflightRequestRef;

    /// A runtime state without a worker, so that its queue is never emptied.
    fn stalled(remote: &Remote) -> RuntimeState {
        let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        RuntimeState::new(
            Arc::clone(remote.shared()),
            Handle::current(),
            Box::from([ChannelPool::new(AgentTransport::Ready(channel), 0)]),
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
            #[cfg(feature = "gzip")]
            gzip: false,
            #[cfg(feature = "telemetry")]
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
