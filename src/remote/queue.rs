//! What waits for the worker of one runtime.

use std::sync::MutexGuard;
use std::task::Waker;
use std::time::Instant;

use super::cache_write::CacheWrites;
use super::ends::Ends;
#[cfg(feature = "telemetry")]
use crate::telemetry::SpanBuffer;

/// What waits for the worker, and what it is doing. Each part is bounded.
pub(super) struct Queue {
    pub(super) ends: Ends,
    pub(super) cache_writes: CacheWrites,
    #[cfg(feature = "telemetry")]
    pub(super) spans: SpanBuffer,
    /// Exports of spans under way.
    #[cfg(feature = "telemetry")]
    pub(super) exports: usize,
    /// Checks without a caller that still run, for each Agent.
    pub(super) handed_over: Box<[usize]>,
    pub(super) phase: Phase,
    /// The worker is to look after runtimes that stand still.
    pub(super) patrol: bool,
    /// Set while the worker sleeps.
    waker: Option<Waker>,
    /// When the worker was woken, until it runs.
    woken: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Open,
    /// The worker ends when nothing is left.
    Draining,
    /// The worker has ended, or has nothing left to do.
    Closed,
}

impl Queue {
    pub(super) fn new(agents: usize) -> Self {
        Self {
            ends: Ends::new(agents),
            cache_writes: CacheWrites::default(),
            #[cfg(feature = "telemetry")]
            spans: SpanBuffer::default(),
            #[cfg(feature = "telemetry")]
            exports: 0,
            handed_over: vec![0; agents].into(),
            phase: Phase::Open,
            patrol: false,
            waker: None,
            // A worker that has just been spawned is about to run.
            woken: Some(Instant::now()),
        }
    }

    /// Wakes the worker if it sleeps, without the lock: waking runs the scheduler's code.
    pub(super) fn wake(mut queue: MutexGuard<'_, Self>) {
        let waker = queue.waker.take();
        if waker.is_some() {
            queue.woken = Some(Instant::now());
        }
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The worker runs.
    pub(super) fn runs(&mut self) {
        self.woken = None;
    }

    /// The worker sleeps.
    pub(super) fn sleeps(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
    }

    /// When the worker was woken that has not run since.
    pub(super) const fn woken(&self) -> Option<Instant> {
        self.woken
    }

    /// Something waits that another runtime's worker could send.
    pub(super) fn has_work(&self) -> bool {
        #[cfg(feature = "telemetry")]
        let spans = !self.spans.is_empty();
        #[cfg(not(feature = "telemetry"))]
        let spans = false;
        spans || !self.ends.is_empty() || !self.cache_writes.is_empty()
    }

    /// Nothing waits and nothing is under way.
    pub(super) fn is_done(&self) -> bool {
        #[cfg(feature = "telemetry")]
        let exported = self.spans.is_empty() && self.exports == 0;
        #[cfg(not(feature = "telemetry"))]
        let exported = true;
        exported
            && self.ends.is_done()
            && self.cache_writes.is_done()
            && self.handed_over.iter().all(|checks| *checks == 0)
    }

    /// Takes all that waits.
    pub(super) fn take(&mut self) -> Work {
        Work {
            ends: self.ends.take_all(),
            cache_writes: self.cache_writes.take_all(),
            #[cfg(feature = "telemetry")]
            spans: self.spans.take_all(),
        }
    }
}

/// Work that changes its worker.
pub(super) struct Work {
    pub(super) ends: Vec<super::flow_end::EndJob>,
    pub(super) cache_writes: Vec<super::cache_write::CacheWrite>,
    #[cfg(feature = "telemetry")]
    pub(super) spans: Vec<crate::telemetry::SpanRecord>,
}
