//! Flows that wait in queues for their answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use super::Agent;
use super::metrics::Node;
use crate::engine::{Starting, StartingHttp};

/// A place among those who wait, until it is dropped.
struct Place<'a>(&'a Node);

impl<'a> Place<'a> {
    fn take(node: &'a Node, most: usize) -> Option<Self> {
        let before = node.waiting.inc();
        let place = Self(node);
        usize::try_from(before)
            .is_ok_and(|before| before < most)
            .then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.dec();
    }
}

/// An answer to come that need not be waited for.
pub(super) trait GiveUp: Future + Unpin {
    /// Whoever still waits is turned away.
    fn give_up(&mut self);
}

impl GiveUp for Starting {
    fn give_up(&mut self) {
        Starting::give_up(self);
    }
}

impl GiveUp for StartingHttp {
    fn give_up(&mut self) {
        StartingHttp::give_up(self);
    }
}

impl Agent {
    /// The engine's answer. Who would have to wait when too many do, or when this is the end, is
    /// turned away.
    pub(super) async fn answer<S: GiveUp>(&self, mut starting: S) -> S::Output {
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut starting).poll(cx))).await;
        if let Poll::Ready(answer) = first {
            return answer;
        }
        let inner = &self.inner;
        let Some(_place) = Place::take(&inner.metrics.node, inner.limits.waiting) else {
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
