//! Somebody in a queue, as seen from outside of it.

use std::fmt;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::engine::clock::Nanos;
use crate::engine::limiters::{Decided, Settled};

/// A queue, whatever its tokens are.
pub(super) trait Waits: Send + Sync {
    /// The answer, or when to ask again.
    fn poll(self: Arc<Self>, at: usize, now: Nanos, waker: &Waker) -> Result<Settled, Nanos>;
    /// Gives up a place, and what was granted there meanwhile; the request counts as rejected.
    fn leave(&self, at: usize);
}

/// A place in a queue; dropping it leaves the queue and gives back what was granted meanwhile.
///
/// A request that leaves was not served, whatever the reason: it counts as rejected.
pub(crate) struct Waiter {
    line: Arc<dyn Waits>,
    /// `None` when the answer was taken.
    at: Option<usize>,
    next_time: Nanos,
}

impl Waiter {
    pub(super) fn new(line: Arc<dyn Waits>, at: usize, next_time: Nanos) -> Self {
        Self {
            line,
            at: Some(at),
            next_time,
        }
    }

    pub(crate) fn poll(&mut self, now: Nanos, waker: &Waker) -> Poll<Settled> {
        let Some(at) = self.at else {
            return Poll::Ready(Settled::from(Decided::REFUSED));
        };
        match Arc::clone(&self.line).poll(at, now, waker) {
            Ok(settled) => {
                self.at = None;
                Poll::Ready(settled)
            }
            Err(next_time) => {
                self.next_time = next_time;
                Poll::Pending
            }
        }
    }

    /// When to ask again if nobody wakes.
    pub(crate) fn next_time(&self) -> Nanos {
        self.next_time
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(at) = self.at.take() {
            self.line.leave(at);
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").finish_non_exhaustive()
    }
}
