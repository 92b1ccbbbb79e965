//! Flows that wait in queues for their answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;

use super::Agent;
use crate::engine::{Starting, StartingHttp};

/// How many wait.
#[derive(Debug, Default)]
pub(super) struct Waiting(AtomicUsize);

/// A place among those who wait, until it is dropped.
#[derive(Debug)]
struct Place<'a>(&'a AtomicUsize);

impl Waiting {
    fn enter(&self, most: usize) -> Option<Place<'_>> {
        let before = self.0.fetch_add(1, Relaxed);
        let place = Place(&self.0);
        (before < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
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
        let Some(_place) = self.inner.waiting.enter(self.inner.limits.waiting) else {
            starting.give_up();
            return starting.await;
        };
        tokio::select! {
            biased;
            answer = &mut starting => return answer,
            () = self.inner.drain.begun() => {}
        }
        starting.give_up();
        starting.await
    }
}
