use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::Shared;
use super::cache_write::{CacheWrite, CacheWrites};
use super::flow::RemoteFlow;
use super::flow_end::EndJob;
use super::transport::Transport;
use crate::flow::{EndError, FlowError};
#[cfg(feature = "telemetry")]
use crate::telemetry::{SpanBuffer, SpanRecord};

/// Ends that may wait for the Agent.
const MAX_ENDS: usize = 16 * 1024;

/// Checks without a caller that may run at once.
const MAX_HANDED_OVER: usize = 1024;

/// The client's side in one runtime: its channels, and the queue of its worker.
pub(super) struct Live {
    pub(super) shared: Arc<Shared>,
    runtime: Handle,
    id: Id,
    /// One for each Agent.
    slots: Box<[Slot]>,
    queue: Mutex<Queue>,
    /// Gone when the side is closed.
    probes: Mutex<Option<JoinSet<()>>>,
    closed: Notify,
}

/// The connections to one Agent.
pub(super) struct Slot(Mutex<Current>);

struct Current {
    transport: Transport,
    generation: u64,
}

/// What waits for the worker.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) ends: VecDeque<EndJob>,
    pub(super) cache_writes: CacheWrites,
    #[cfg(feature = "telemetry")]
    pub(super) spans: SpanBuffer,
    /// Checks whose callers left and that are still running.
    pub(super) handed_over: usize,
    pub(super) phase: Phase,
    /// Set while the worker sleeps.
    pub(super) waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Open,
    /// The worker ends when nothing is left.
    Draining,
    /// The worker ends now.
    GivenUp,
    /// The worker has ended.
    Closed,
}

// === impl Live ===

impl Live {
    pub(super) fn new(shared: Arc<Shared>, runtime: Handle, slots: Box<[Slot]>) -> Self {
        Self {
            shared,
            id: runtime.id(),
            runtime,
            slots,
            queue: Mutex::default(),
            probes: Mutex::new(Some(JoinSet::new())),
            closed: Notify::new(),
        }
    }

    pub(super) const fn runtime(&self) -> Id {
        self.id
    }

    pub(super) const fn handle(&self) -> &Handle {
        &self.runtime
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

    /// Runs a probe until the side is closed.
    pub(super) fn spawn_probe(&self, probe: impl Future<Output = ()> + Send + 'static) {
        if let Some(probes) = &mut *self.probes() {
            while probes.try_join_next().is_some() {}
            probes.spawn_on(probe, &self.runtime);
        }
    }

    fn probes(&self) -> MutexGuard<'_, Option<JoinSet<()>>> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves an end for the worker, which is woken if it sleeps.
    pub(super) fn push_end(&self, job: EndJob) -> Result<(), (EndJob, EndError)> {
        let mut queue = self.queue();
        if queue.phase == Phase::Closed {
            return Err((job, EndError::ShutDown));
        }
        if queue.ends.len() >= MAX_ENDS {
            return Err((job, EndError::QueueFull));
        }
        queue.ends.push_back(job);
        Queue::wake(queue);
        Ok(())
    }

    /// Leaves a change to a cache for the worker; `false` when there is no room or no worker.
    pub(super) fn push_cache_write(&self, write: CacheWrite) -> bool {
        let mut queue = self.queue();
        let pushed = queue.phase != Phase::Closed && queue.cache_writes.push(write);
        if pushed {
            Queue::wake(queue);
        }
        pushed
    }

    /// Leaves a span for the worker, which is woken only to start its timer or for a full batch.
    /// Gives the span back when the worker is gone.
    #[cfg(feature = "telemetry")]
    pub(super) fn push_span(&self, span: SpanRecord) -> Option<SpanRecord> {
        let mut queue = self.queue();
        if queue.phase == Phase::Closed {
            return Some(span);
        }
        if !queue.spans.push(span) {
            drop(queue);
            self.shared.counters.spans_dropped.add(1);
        } else if queue.spans.wants_worker() || queue.phase == Phase::Draining {
            Queue::wake(queue);
        }
        None
    }

    /// Sees a running check to its end without its caller, and gives back what it was granted.
    pub(super) fn hand_over<F>(self: &Arc<Self>, call: F, limit: Option<Duration>)
    where
        F: Future<Output = Result<RemoteFlow, FlowError>> + Send + 'static,
    {
        let counters = &self.shared.counters;
        let mut queue = self.queue();
        if queue.phase == Phase::Closed || queue.handed_over >= MAX_HANDED_OVER {
            drop(queue);
            counters.checks_cancelled.add(1);
            return;
        }
        queue.handed_over += 1;
        drop(queue);
        counters.checks_handed_over.add(1);
        let running = HandedOver(Arc::clone(self));
        // On the runtime of its own timers: should that be gone, so is the call.
        self.runtime.spawn(async move {
            let _running = running;
            let answer = match limit {
                None => call.await,
                Some(limit) => match tokio::time::timeout(limit, call).await {
                    Ok(answer) => answer,
                    Err(_) => return,
                },
            };
            if let Ok(flow) = answer {
                flow.give_back();
            }
        });
    }

    /// Asks the worker to end once everything is delivered.
    pub(super) fn drain(&self) {
        let mut queue = self.queue();
        if queue.phase == Phase::Open {
            queue.phase = Phase::Draining;
        }
        Queue::wake(queue);
    }

    /// Asks the worker to end at once.
    pub(super) fn give_up(&self) {
        let mut queue = self.queue();
        if queue.phase != Phase::Closed {
            queue.phase = Phase::GivenUp;
        }
        Queue::wake(queue);
    }

    /// Waits for the end of the worker.
    pub(super) async fn closed(&self) {
        loop {
            let mut closed = pin!(self.closed.notified());
            closed.as_mut().enable();
            if self.queue().phase == Phase::Closed {
                return;
            }
            closed.await;
        }
    }

    /// The worker is gone: whatever it left is lost.
    pub(super) fn close(&self) {
        self.shared.forget(self);
        let probes = self.probes().take();
        drop(probes);
        let mut queue = self.queue();
        queue.phase = Phase::Closed;
        let ends = std::mem::take(&mut queue.ends);
        let cache_writes = std::mem::take(&mut queue.cache_writes);
        #[cfg(feature = "telemetry")]
        let spans = queue.spans.take_all();
        drop(queue);
        let counters = &self.shared.counters;
        counters.ends_dropped.add(ends.len());
        counters.cache_writes_dropped.add(cache_writes.len());
        #[cfg(feature = "telemetry")]
        counters.spans_dropped.add(spans.len());
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

// === impl Queue ===

impl Queue {
    /// Wakes the worker if it sleeps, without the lock: waking runs the scheduler's code.
    fn wake(mut queue: MutexGuard<'_, Self>) {
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        #[cfg(feature = "telemetry")]
        let spans = self.spans.is_empty();
        #[cfg(not(feature = "telemetry"))]
        let spans = true;
        spans && self.ends.is_empty() && self.cache_writes.is_empty() && self.handed_over == 0
    }
}

/// A check that runs without its caller.
struct HandedOver(Arc<Live>);

impl Drop for HandedOver {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.handed_over -= 1;
        if queue.phase != Phase::Open {
            Queue::wake(queue);
        }
    }
}

#[cfg(test)]
mod tests {
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
    async fn a_full_queue_of_ends_turns_the_next_one_away() {
        let remote = remote();
        let live = stalled(&remote);
        for _ in 0..MAX_ENDS {
            assert!(live.push_end(job("a", 1)).is_ok());
        }
        let refused = live.push_end(job("a", 1)).err().map(|(_, error)| error);
        assert_eq!(refused, Some(EndError::QueueFull));
        live.close();
        let mut stats = crate::ClientStats::default();
        remote.add_stats(&mut stats);
        assert_eq!(
            stats.ends_dropped, MAX_ENDS as u64,
            "what waited is counted"
        );
        let refused = live.push_end(job("a", 1)).err().map(|(_, error)| error);
        assert_eq!(refused, Some(EndError::ShutDown));
    }

    #[tokio::test]
    async fn a_batch_holds_one_control_point_and_loses_nothing() {
        let remote = remote();
        let live = Arc::new(stalled(&remote));
        let mut queue: VecDeque<EndJob> = VecDeque::new();
        for at in 0..200 {
            queue.push_back(job(if at % 2 == 0 { "a" } else { "b" }, 2));
        }
        queue.push_back(job("b", 1000));
        let mut sizes = Vec::new();
        while let Some(batch) = crate::remote::flow_end::take_batch(&mut queue, &live) {
            let (control_point, refs) = batch.size();
            sizes.push((control_point.to_owned(), refs));
        }
        let expected = [("a", 200), ("b", 200), ("b", 1000)];
        assert_eq!(sizes, expected.map(|(name, refs)| (name.to_owned(), refs)));
    }
}
