//! Limits the flows that wait in queues for a decision.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use super::Agent;
use super::limits::WAITING_FLOW_BYTES;
use super::memory_budget::{Charge, MemoryKind};
use super::metrics::ProcessSeries;
use aperture_engine::engine::{PendingHttpReport, PendingReport};

/// Counts a flow as waiting, until it is dropped.
struct WaitingFlow<'a> {
    process: &'a ProcessSeries,
    charge: &'a Charge,
}

impl<'a> WaitingFlow<'a> {
    /// Counts a flow as waiting, unless the limit is reached. A connection may have as many waiting
    /// flows as are left for all other connections, and at least one while any are left.
    fn admit(
        process: &'a ProcessSeries,
        limit: usize,
        charge: &'a Charge,
        bytes: usize,
    ) -> Option<Self> {
        let before = usize::try_from(process.waiting.inc()).unwrap_or_default();
        let own = charge.account().waiting.fetch_add(1, Relaxed);
        let flow = Self { process, charge };
        if own >= limit.saturating_sub(before) {
            return None;
        }
        // The decoded message has been dropped by now.
        charge.release(MemoryKind::Incoming);
        charge.release(MemoryKind::Decoded);
        charge
            .take(MemoryKind::Waiting, bytes + WAITING_FLOW_BYTES)
            .ok()?;
        Some(flow)
    }
}

impl Drop for WaitingFlow<'_> {
    fn drop(&mut self) {
        self.process.waiting.dec();
        self.charge.account().waiting.fetch_sub(1, Relaxed);
        self.charge.release(MemoryKind::Waiting);
    }
}

/// A check whose decision is pending and can be forced.
pub(super) trait PendingDecision: Future + Unpin {
    /// Rejects the flow if it still waits.
    fn give_up(&mut self);

    /// Returns the bytes that the flow holds while it waits.
    fn held_bytes(&self) -> usize;
}

impl PendingDecision for PendingReport {
    fn give_up(&mut self) {
        PendingReport::give_up(self);
    }

    fn held_bytes(&self) -> usize {
        PendingReport::held_bytes(self)
    }
}

impl PendingDecision for PendingHttpReport {
    fn give_up(&mut self) {
        PendingHttpReport::give_up(self);
    }

    fn held_bytes(&self) -> usize {
        PendingHttpReport::held_bytes(self)
    }
}

impl Agent {
    /// Returns the engine's decision. Rejects a flow that would have to wait when too many flows
    /// wait already, or during shutdown.
    pub(super) async fn await_decision<S: PendingDecision>(
        &self,
        mut pending: S,
        charge: &Charge,
    ) -> S::Output {
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut pending).poll(cx))).await;
        if let Poll::Ready(decision) = first {
            return decision;
        }
        let inner = &self.inner;
        let Some(_waiting) = WaitingFlow::admit(
            &inner.metrics.process,
            inner.limits.waiting,
            charge,
            pending.held_bytes(),
        ) else {
            inner.crowded_out();
            pending.give_up();
            return pending.await;
        };
        tokio::select! {
            biased;
            decision = &mut pending => return decision,
            () = inner.drain.begun() => {}
        }
        pending.give_up();
        pending.await
    }
}
