//! Moves work between the runtimes in which the client is used, when one of them ends or stalls.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::config::RemoteTarget;
use super::queue::{QueuedWork, WorkerQueue};
use super::runtime_state::PushResult;
use super::state::{AgentChannel, RemoteShared, RuntimeState};
use super::transport::AgentTransport;
use super::worker;
use crate::flow::{EndError, FlowError, FlowErrorKind};
use crate::telemetry::SpanBatch;

impl RemoteShared {
    /// Returns the state of the client in the current runtime, and creates it if needed.
    ///
    /// Connections and timers belong to a runtime and end with it. A client that outlives a
    /// runtime, for example in tests that share a static, therefore starts anew in the next one.
    pub(super) fn current_runtime(self: &Arc<Self>) -> Result<Arc<RuntimeState>, FlowError> {
        let Ok(handle) = Handle::try_current() else {
            return Err(FlowError::new(
                FlowErrorKind::Other,
                "an agent can only be called inside a tokio runtime",
            ));
        };
        let id = handle.id();
        let mut runtimes = self.runtimes();
        if let Some(runtime) = runtimes.iter().find(|runtime| runtime.runtime_id() == id) {
            return Ok(Arc::clone(runtime));
        }
        if self.availability.is_shut_down() {
            return Err(FlowError::new(FlowErrorKind::ShutDown, ""));
        }
        super::meter::register(&self.counters, &self.agents);
        let channels: Vec<AgentChannel> = match &self.config.target {
            RemoteTarget::Connect(connect) => {
                let agents = self.agents.iter();
                let channels = agents.filter_map(|agent| {
                    let generation = agent.generation();
                    let pool = agent.pool(connect, &handle)?;
                    Some(AgentChannel {
                        transport: AgentTransport::Own(pool),
                        generation,
                    })
                });
                channels.collect()
            }
            RemoteTarget::Ready(channel) => vec![AgentChannel {
                transport: AgentTransport::Ready(channel.clone()),
                generation: 0,
            }],
        };
        let runtime = Arc::new(RuntimeState::new(Arc::clone(self), handle, channels));
        runtimes.push(Arc::clone(&runtime));
        // A runtime that is shutting down drops the new task at once, and the drop takes this lock.
        drop(runtimes);
        worker::start(&runtime);
        Ok(runtime)
    }

    /// Returns the states of all runtimes, newest first: the newest runtime is the least likely to
    /// stall.
    pub(super) fn runtimes_newest_first(&self) -> Vec<Arc<RuntimeState>> {
        self.runtimes().iter().rev().cloned().collect()
    }

    pub(super) fn remove_runtime(&self, runtime: &RuntimeState) {
        self.runtimes()
            .retain(|other| !std::ptr::eq(&**other, runtime));
    }

    /// Adds work to the first queue that accepts it: that of the current runtime, which is sure to
    /// run; else that of `own`, where the flow began; else any other.
    pub(super) fn enqueue<T>(
        self: &Arc<Self>,
        own: Option<&Arc<RuntimeState>>,
        mut work: T,
        push: impl Fn(&RuntimeState, T) -> PushResult<T>,
    ) -> Result<(), EndError> {
        let current = Handle::try_current().ok().map(|handle| handle.id());
        if let Some(own) = own
            && current == Some(own.runtime_id())
        {
            // The usual case takes no lock but the queue's.
            match push(own, work) {
                PushResult::Queued => return Ok(()),
                PushResult::Refused(refused, EndError::ShutDown) => work = refused,
                PushResult::Refused(_, error) => return Err(error),
            }
        } else if current.is_some()
            && let Ok(runtime) = self.current_runtime()
        {
            match push(&runtime, work) {
                PushResult::Queued => return Ok(()),
                PushResult::Refused(refused, EndError::ShutDown) => work = refused,
                PushResult::Refused(_, error) => return Err(error),
            }
        }
        let own = own.into_iter().cloned();
        for runtime in own.chain(self.runtimes_newest_first()) {
            let outcome = match push(&runtime, work) {
                PushResult::Queued => Ok(()),
                PushResult::Refused(refused, EndError::ShutDown) => {
                    work = refused;
                    continue;
                }
                PushResult::Refused(_, error) => Err(error),
            };
            self.request_stall_check(&runtime);
            return outcome;
        }
        Err(EndError::ShutDown)
    }

    /// Moves the work of a runtime that ends to another one. Counts the work as lost if no runtime
    /// accepts it.
    pub(super) fn move_work(&self, work: QueuedWork) {
        let mut remaining = work;
        for runtime in self.runtimes_newest_first() {
            remaining = runtime.take_over(remaining);
        }
        self.count_dropped(&remaining);
    }

    pub(super) fn count_dropped(&self, work: &QueuedWork) {
        let counters = &self.counters;
        let sent = work.ends.iter().filter(|end| end.was_sent()).count();
        counters.ends_failed.add(sent);
        counters.ends_dropped.add(work.ends.len() - sent);
        counters.cache_writes_dropped.add(work.cache_writes.len());
        let spans = work.spans.iter().map(SpanBatch::len).sum();
        counters.spans_dropped.add(spans);
    }

    /// Asks the workers of the other runtimes to check whether that of `target` has stalled,
    /// because work was queued there from outside.
    fn request_stall_check(&self, target: &RuntimeState) {
        let others = self.runtimes_newest_first();
        for other in others
            .iter()
            .filter(|other| !std::ptr::eq(&***other, target))
        {
            let mut queue = other.queue();
            if !queue.stall_check_requested {
                queue.stall_check_requested = true;
                WorkerQueue::wake(queue);
            }
        }
    }
}

impl RuntimeState {
    /// Queues the work for which this runtime has room, and returns the rest.
    pub(super) fn take_over(&self, work: QueuedWork) -> QueuedWork {
        QueuedWork {
            ends: push_all(work.ends, |end| self.push_end(end)),
            cache_writes: push_all(work.cache_writes, |write| self.push_cache_write(write)),
            spans: push_all(work.spans, |batch| self.push_span_batch(batch)),
        }
    }

    /// Takes over the work of runtimes whose worker was woken at least `age` ago and has not run
    /// since. Returns `true` if other runtimes may still turn out to be stalled.
    pub(super) fn take_over_stalled(&self, age: Duration) -> bool {
        let mut may_stall = false;
        for other in self.shared.runtimes_newest_first() {
            if std::ptr::eq(&*other, self) {
                continue;
            }
            let mut queue = other.queue();
            let Some(woken_at) = queue.woken_at().filter(|_| queue.has_work()) else {
                continue;
            };
            if woken_at.elapsed() < age {
                may_stall = true;
                continue;
            }
            let work = queue.take_work();
            drop(queue);
            let remaining = other.take_over(self.take_over(work));
            self.shared.count_dropped(&remaining);
        }
        may_stall
    }
}

/// Pushes every item that is accepted, and returns the rest.
fn push_all<T>(all: Vec<T>, push: impl Fn(T) -> PushResult<T>) -> Vec<T> {
    all.into_iter()
        .filter_map(|item| match push(item) {
            PushResult::Queued => None,
            PushResult::Refused(item, _) => Some(item),
        })
        .collect()
}
