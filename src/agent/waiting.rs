//! Flows that wait in queues for their answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use super::budget::{Charge, Line};
use super::metrics::Node;
use super::{Agent, FLOW_BYTES};
use crate::engine::{PendingReport, StartingHttp};

/// A place among the flows that wait, until it is dropped.
struct Place<'a> {
    node: &'a Node,
    charge: Option<&'a Charge>,
}

impl<'a> Place<'a> {
    /// Takes a place for a flow. A connection may have as many as are left for all others, one at
    /// least.
    fn take(node: &'a Node, most: usize, charge: Option<&'a Charge>, bytes: usize) -> Option<Self> {
        let before = usize::try_from(node.waiting.inc()).unwrap_or_default();
        let own = charge.map_or(0, |charge| charge.account().waiting.fetch_add(1, Relaxed));
        let place = Self { node, charge };
        if own >= most.saturating_sub(before) {
            return None;
        }
        if let Some(charge) = charge {
            // The message is not held any more.
            charge.release(Line::Incoming);
            charge.release(Line::Decoded);
            charge.take(Line::Waiting, bytes + FLOW_BYTES).ok()?;
        }
        Some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.node.waiting.dec();
        if let Some(charge) = self.charge {
            charge.account().waiting.fetch_sub(1, Relaxed);
            charge.release(Line::Waiting);
        }
    }
}

/// An answer to come that need not be waited for.
pub(super) trait GiveUp: Future + Unpin {
    /// Turns the flow away if it still waits.
    fn give_up(&mut self);

    /// Returns the bytes of all that the flow holds while it waits.
    fn held_bytes(&self) -> usize;
}

impl GiveUp for PendingReport {
    fn give_up(&mut self) {
        PendingReport::give_up(self);
    }

    fn held_bytes(&self) -> usize {
        PendingReport::held_bytes(self)
    }
}

impl GiveUp for StartingHttp {
    fn give_up(&mut self) {
        StartingHttp::give_up(self);
    }

    fn held_bytes(&self) -> usize {
        StartingHttp::held_bytes(self)
    }
}

impl Agent {
    /// Returns the engine's answer. A flow that would have to wait when too many do, or during
    /// shutdown, is turned away.
    pub(super) async fn answer<S: GiveUp>(
        &self,
        mut starting: S,
        charge: Option<&Charge>,
    ) -> S::Output {
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut starting).poll(cx))).await;
        if let Poll::Ready(answer) = first {
            return answer;
        }
        let inner = &self.inner;
        let Some(_place) = Place::take(
            &inner.metrics.node,
            inner.limits.waiting,
            charge,
            starting.held_bytes(),
        ) else {
            inner.crowded_out();
            starting.give_up();
            return starting.await;
        };
        tokio::select! {
            biased;
            answer = &mut starting => return answer,
            () = inner.drain.begun() => {}
        }
        starting.give_up();
        starting.await
    }
}
