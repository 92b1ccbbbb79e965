//! The client's side in one runtime: its connections, and the queue of its worker.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::Shared;
use super::cache_write::CacheWrite;
use super::flow_end::EndJob;
use super::hand_over::Life;
use super::queue::{Phase, Queue};
use super::transport::Transport;
use crate::flow::EndError;
#[cfg(feature = "telemetry")]
use crate::telemetry::SpanRecord;

/// Probes of one Agent at once: enough for an interval of some milliseconds while the Agent hangs.
const MAX_PROBES: usize = 64;

/// The client's side in one runtime.
pub(super) struct Live {
    pub(super) shared: Arc<Shared>,
    runtime: Handle,
    id: Id,
    /// One for each Agent.
    slots: Box<[Slot]>,
    lives: Box<[Life]>,
    queue: Mutex<Queue>,
    /// One set for each Agent; empty when the side is closed.
    probes: Mutex<Box<[JoinSet<()>]>>,
    closed: Notify,
    gone: AtomicBool,
}

/// The connections to one Agent.
pub(super) struct Slot(Mutex<Current>);

struct Current {
    transport: Transport,
    generation: u64,
}

/// What a side does with work that is left with it.
#[must_use]
pub(super) enum Offered<T> {
    Taken,
    /// Gives the work back, and says why.
    Refused(T, EndError),
}

// === impl Live ===

impl Live {
    pub(super) fn new(shared: Arc<Shared>, runtime: Handle, slots: Box<[Slot]>) -> Self {
        let agents = slots.len();
        Self {
            shared,
            id: runtime.id(),
            runtime,
            slots,
            lives: (0..agents).map(|_| Life::new()).collect(),
            queue: Mutex::new(Queue::new(agents)),
            probes: Mutex::new((0..agents).map(|_| JoinSet::new()).collect()),
            closed: Notify::new(),
            gone: AtomicBool::new(false),
        }
    }

    pub(super) const fn runtime(&self) -> Id {
        self.id
    }

    pub(super) const fn handle(&self) -> &Handle {
        &self.runtime
    }

    pub(super) fn life(&self, at: usize) -> &Life {
        &self.lives[at]
    }

    /// Returns the connections to an Agent.
    pub(super) fn channel(&self, at: usize) -> Transport {
        let mut current = self.slots[at].current();
        let generation = self.shared.agents.get(at).generation();
        if current.generation != generation
            && let Some(transport) = self.connect(at)
        {
            let old = std::mem::replace(
                &mut *current,
                Current {
                    transport,
                    generation,
                },
            );
            let new = current.transport.clone();
            // Closes connections, which wakes their tasks: not under the lock.
            drop(current);
            drop(old);
            return new;
        }
        current.transport.clone()
    }

    /// Returns new connections to an Agent, where they are the client's own.
    pub(super) fn connect(&self, at: usize) -> Option<Transport> {
        let connect = self.shared.config.connect()?;
        let pool = self.shared.agents.get(at).pool(connect, &self.runtime)?;
        Some(Transport::Own(pool))
    }

    /// Uses other connections from now on, and leaves those of other runtimes to be made anew.
    pub(super) fn replace(&self, at: usize, transport: Transport) {
        let mut current = self.slots[at].current();
        let generation = self.shared.agents.get(at).next_generation();
        let new = Current {
            transport,
            generation,
        };
        let old = std::mem::replace(&mut *current, new);
        drop(current);
        drop(old);
    }

    /// Runs a probe until the side is closed; drops it when too many of the Agent run already.
    pub(super) fn spawn_probe(&self, at: usize, probe: impl Future<Output = ()> + Send + 'static) {
        let mut probes = self.probes();
        let Some(probes) = probes.get_mut(at) else {
            drop(probes);
            return drop(probe);
        };
        while probes.try_join_next().is_some() {}
        if probes.len() < MAX_PROBES {
            probes.spawn_on(probe, &self.runtime);
        }
    }

    fn probes(&self) -> MutexGuard<'_, Box<[JoinSet<()>]>> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves an end for the worker.
    pub(super) fn push_end(&self, job: EndJob) -> Offered<EndJob> {
        let mut queue = self.queue();
        if queue.phase == Phase::Closed {
            return Offered::Refused(job, EndError::ShutDown);
        }
        if let Err(job) = queue.ends.push(job) {
            return Offered::Refused(job, EndError::QueueFull);
        }
        Queue::wake(queue);
        Offered::Taken
    }

    /// Leaves a change to a cache for the worker.
    pub(super) fn push_cache_write(&self, write: CacheWrite) -> Offered<CacheWrite> {
        let mut queue = self.queue();
        if queue.phase == Phase::Closed {
            return Offered::Refused(write, EndError::ShutDown);
        }
        if let Some(write) = queue.cache_writes.push(write) {
            return Offered::Refused(write, EndError::QueueFull);
        }
        Queue::wake(queue);
        Offered::Taken
    }

    /// Leaves a span for the worker, which is woken only to start its timer or for a full batch.
    #[cfg(feature = "telemetry")]
    pub(super) fn push_span(&self, span: SpanRecord) -> Offered<SpanRecord> {
        let mut queue = self.queue();
        if queue.phase == Phase::Closed {
            return Offered::Refused(span, EndError::ShutDown);
        }
        if let Some(span) = queue.spans.push(span) {
            return Offered::Refused(span, EndError::QueueFull);
        }
        if queue.spans.wants_worker() || queue.phase == Phase::Draining {
            Queue::wake(queue);
        }
        Offered::Taken
    }

    /// Asks the worker to end once nothing is left; closes the side at once where that is so.
    pub(super) fn drain(&self) {
        let mut queue = self.queue();
        if queue.phase == Phase::Open {
            queue.phase = Phase::Draining;
        }
        if queue.phase == Phase::Draining && self.shared.open_flows() == 0 && queue.is_done() {
            // Under the lock: work that comes later is refused.
            queue.phase = Phase::Closed;
        }
        let done = queue.phase == Phase::Closed;
        Queue::wake(queue);
        if done {
            self.close();
        }
        for life in &self.lives {
            life.give_up();
        }
    }

    /// Ends the worker at once, and counts as dropped whatever waits for it.
    pub(super) fn give_up(&self) {
        let mut queue = self.queue();
        queue.phase = Phase::Closed;
        let work = queue.take();
        Queue::wake(queue);
        self.shared.count_dropped(&work);
        self.close();
    }

    /// Waits until the side is closed.
    pub(super) async fn closed(&self) {
        loop {
            let mut closed = pin!(self.closed.notified());
            closed.as_mut().enable();
            if self.gone.load(SeqCst) {
                return;
            }
            closed.await;
        }
    }

    /// Closes the side. Work that still waits, because the runtime ends, moves to another one.
    pub(super) fn close(&self) {
        let probes = std::mem::take(&mut *self.probes());
        drop(probes);
        let mut queue = self.queue();
        queue.phase = Phase::Closed;
        let work = queue.take();
        drop(queue);
        self.shared.move_work(work);
        // Last: a shutdown waits for the sides that are known, and must not miss work on its way.
        self.shared.forget(self);
        self.gone.store(true, SeqCst);
        self.closed.notify_waiters();
    }
}

// === impl Slot ===

impl Slot {
    pub(super) const fn new(transport: Transport, generation: u64) -> Self {
        Self(Mutex::new(Current {
            transport,
            generation,
        }))
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Remote, RemoteConfig, Target};
    use super::*;
    use crate::pb::check::InflightRequestRef;

    /// A side without a worker, which nothing ever leaves.
    fn stalled(remote: &Remote) -> Live {
        let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        Live::new(
            Arc::clone(remote.shared()),
            Handle::current(),
            Box::from([Slot::new(Transport::Ready(channel), 0)]),
        )
    }

    fn remote() -> Remote {
        let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        Remote::new(RemoteConfig {
            target: Target::Ready(channel),
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
    async fn a_full_queue_of_ends_refuses_the_next_one_and_counts_what_it_loses() {
        let remote = remote();
        let live = stalled(&remote);
        let mut queued = 0;
        let refused = loop {
            match live.push_end(job("a", 1)) {
                Offered::Taken => queued += 1,
                Offered::Refused(_, error) => break error,
            }
        };
        assert_eq!(refused, EndError::QueueFull);
        live.close();
        let mut stats = crate::ClientStats::default();
        remote.add_stats(&mut stats);
        assert_eq!(stats.ends_dropped, queued, "there is no other runtime");
        assert!(matches!(
            live.push_end(job("a", 1)),
            Offered::Refused(_, EndError::ShutDown)
        ));
    }
}
