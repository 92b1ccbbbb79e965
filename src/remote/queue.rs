//! The queue of the worker of one runtime.

use std::sync::MutexGuard;
use std::task::Waker;
use std::time::Instant;

use super::cache_write::{CacheWrite, CacheWrites};
use super::end_job::EndJob;
use super::end_queues::EndQueues;
use crate::telemetry::{SpanBatch, SpanBuffer};

/// The work that waits for the worker, and the state of the worker. Each part is bounded.
pub(super) struct WorkerQueue {
    pub(super) ends: EndQueues,
    pub(super) cache_writes: CacheWrites,
    pub(super) spans: SpanBuffer,
    /// The exports of spans in flight.
    pub(super) exports: usize,
    /// The checks without a caller in flight, for each Agent.
    pub(super) handed_over: Box<[usize]>,
    pub(super) phase: WorkerPhase,
    /// Asks the worker to check whether other runtimes have stalled.
    pub(super) stall_check_requested: bool,
    /// Set while the worker sleeps.
    waker: Option<Waker>,
    /// When the worker was woken. `None` once it runs.
    woken_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum WorkerPhase {
    #[default]
    Open,
    /// The worker ends once its work is done.
    Draining,
    /// The worker has ended, or its work is done.
    Closed,
}

impl WorkerQueue {
    pub(super) fn new(agents: usize) -> Self {
        Self {
            ends: EndQueues::new(agents),
            cache_writes: CacheWrites::default(),
            spans: SpanBuffer::default(),
            exports: 0,
            handed_over: vec![0; agents].into(),
            phase: WorkerPhase::Open,
            stall_check_requested: false,
            waker: None,
            // A worker that was just spawned is about to run.
            woken_at: Some(Instant::now()),
        }
    }

    /// Wakes the worker if it sleeps. The lock is released first, because waking runs code of the
    /// runtime.
    pub(super) fn wake(mut queue: MutexGuard<'_, Self>) {
        let waker = queue.waker.take();
        if waker.is_some() {
            queue.woken_at = Some(Instant::now());
        }
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Records that the worker runs.
    pub(super) fn mark_running(&mut self) {
        self.woken_at = None;
    }

    /// Records that the worker sleeps.
    pub(super) fn mark_sleeping(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
    }

    /// Returns when the worker was woken, if it has not run since.
    pub(super) const fn woken_at(&self) -> Option<Instant> {
        self.woken_at
    }

    /// Returns `true` if work waits that the worker of another runtime could send.
    pub(super) fn has_work(&self) -> bool {
        !self.spans.is_empty() || !self.ends.is_empty() || !self.cache_writes.is_empty()
    }

    /// Returns `true` if no work waits and none is in flight.
    pub(super) fn is_done(&self) -> bool {
        self.spans.is_empty()
            && self.exports == 0
            && self.ends.is_done()
            && self.cache_writes.is_done()
            && self.handed_over.iter().all(|checks| *checks == 0)
    }

    /// Takes all waiting work.
    pub(super) fn take_work(&mut self) -> QueuedWork {
        QueuedWork {
            ends: self.ends.take_all(),
            cache_writes: self.cache_writes.take_all(),
            spans: self.spans.take_all(),
        }
    }
}

/// Work that moves to the worker of another runtime.
pub(super) struct QueuedWork {
    pub(super) ends: Vec<EndJob>,
    pub(super) cache_writes: Vec<CacheWrite>,
    pub(super) spans: Vec<SpanBatch>,
}
