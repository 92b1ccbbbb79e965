//! The state of a client of real Agents: shared by all runtimes, and in each runtime.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::agents::Agents;
use super::availability::Availability;
use super::call_head::CallHeads;
use super::config::RemoteConfig;
use super::counters::RemoteCounters;
use super::probe_answers::ProbeAnswers;
use super::queue::WorkerQueue;
use super::transport::AgentTransport;

/// A client of real Agents. Clones share all state; dropping the last one shuts the client down.
pub(crate) struct Remote {
    shared: Arc<RemoteShared>,
}

/// The state that clones of the client and background tasks share.
pub(super) struct RemoteShared {
    pub(super) config: RemoteConfig,
    pub(super) call_heads: CallHeads,
    pub(super) agents: Agents,
    pub(super) availability: Availability,
    pub(super) counters: RemoteCounters,
    /// One entry for each runtime in which the client is used; nearly always a single one.
    runtimes: Mutex<Vec<Arc<RuntimeState>>>,
    /// The number of clones of the client. Background tasks are not counted.
    clones: AtomicUsize,
    /// The number of checks in flight and of flows that have not ended.
    open_flows: AtomicUsize,
    /// The losses counted before the first call of `shutdown`.
    pub(super) lost_before_shutdown: OnceLock<u64>,
}

/// The state of the client in one runtime: its connections and the queue of its worker.
pub(super) struct RuntimeState {
    pub(super) shared: Arc<RemoteShared>,
    handle: Handle,
    id: Id,
    /// One entry for each Agent.
    channels: Box<[Mutex<AgentChannel>]>,
    pub(super) probe_answers: Box<[ProbeAnswers]>,
    queue: Mutex<WorkerQueue>,
    /// One set for each Agent; empty once this state is closed.
    probes: Mutex<Box<[JoinSet<()>]>>,
    pub(super) closed_notify: Notify,
    pub(super) is_closed: AtomicBool,
}

/// The connections to one Agent.
pub(super) struct AgentChannel {
    pub(super) transport: AgentTransport,
    /// The [generation](super::agents::RemoteAgent::generation) of the connections.
    pub(super) generation: u64,
}

impl Remote {
    /// Creates a client. It connects and spawns tasks only with the first call.
    pub(crate) fn new(config: RemoteConfig) -> Self {
        Self {
            shared: Arc::new(RemoteShared {
                agents: Agents::new(&config),
                call_heads: CallHeads::new(&config),
                config,
                availability: Availability::default(),
                counters: RemoteCounters::default(),
                runtimes: Mutex::default(),
                clones: AtomicUsize::new(1),
                open_flows: AtomicUsize::new(0),
                lost_before_shutdown: OnceLock::new(),
            }),
        }
    }

    pub(super) const fn shared(&self) -> &Arc<RemoteShared> {
        &self.shared
    }
}

impl Clone for Remote {
    fn clone(&self) -> Self {
        self.shared.clones.fetch_add(1, SeqCst);
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Each open flow holds a clone of the client, so with the last clone no flow is open and no
        // more work is queued.
        if self.shared.clones.fetch_sub(1, SeqCst) == 1 {
            self.shared.shut_down();
        }
    }
}

impl RemoteShared {
    pub(super) fn runtimes(&self) -> MutexGuard<'_, Vec<Arc<RuntimeState>>> {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops new flows. The workers end once their work is done.
    pub(super) fn shut_down(&self) {
        self.availability.shut_down();
        // Work that waits for an Agent to return is attempted once more without waiting.
        self.agents.notify();
        for runtime in self.runtimes_newest_first() {
            runtime.drain();
        }
    }

    /// Returns the number of checks in flight and of flows that have not ended and hold a slot or a
    /// span.
    pub(super) fn open_flows(&self) -> usize {
        self.open_flows.load(SeqCst)
    }
}

impl RuntimeState {
    /// `channels` has one entry for each Agent.
    pub(super) fn new(
        shared: Arc<RemoteShared>,
        handle: Handle,
        channels: impl IntoIterator<Item = AgentChannel>,
    ) -> Self {
        let channels: Box<[_]> = channels.into_iter().map(Mutex::new).collect();
        let agents = channels.len();
        Self {
            shared,
            id: handle.id(),
            handle,
            channels,
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

    pub(super) fn current_channel(&self, agent_index: usize) -> MutexGuard<'_, AgentChannel> {
        let channel = &self.channels[agent_index];
        channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn probes(&self) -> MutexGuard<'_, Box<[JoinSet<()>]>> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, WorkerQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a flow as open until it is dropped.
pub(super) struct OpenFlow(Arc<RemoteShared>);

impl OpenFlow {
    /// Returns `None` if the client has shut down.
    pub(super) fn new(shared: &Arc<RemoteShared>) -> Option<Self> {
        // The flow is counted before the flag is read: either this sees the shutdown, or the
        // shutdown sees the flow.
        shared.open_flows.fetch_add(1, SeqCst);
        let flow = Self(Arc::clone(shared));
        (!shared.availability.is_shut_down()).then_some(flow)
    }
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        if self.0.open_flows.fetch_sub(1, SeqCst) == 1 && self.0.availability.is_shut_down() {
            // No more work arrives: workers with an empty queue end.
            for runtime in self.0.runtimes_newest_first() {
                runtime.drain();
            }
        }
    }
}
