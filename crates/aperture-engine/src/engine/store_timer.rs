//! Waits for a shared store outside of decisions, at most until its deadline.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep};

use super::clock::{Clock, Nanos, duration, nanos};

/// A timer on the engine's clock. It needs no task.
pub(super) struct StoreTimer {
    clock: Arc<dyn Clock>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// The end of a wait.
pub(super) enum Waited {
    /// The time may have come.
    LookAgain,
    /// No timer can be set outside of a Tokio runtime.
    NoTimer,
}

impl StoreTimer {
    pub(super) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self {
            clock: Arc::clone(clock),
            timer: None,
        }
    }

    pub(super) fn now(&self) -> Nanos {
        nanos(self.clock.now())
    }

    /// Waits until the clock may have reached `time`.
    pub(super) fn poll_until(&mut self, time: Nanos, cx: &mut Context<'_>) -> Poll<Waited> {
        if self.clock.wake_at(duration(time), cx.waker()) {
            return match time <= self.now() {
                true => Poll::Ready(Waited::LookAgain),
                false => Poll::Pending,
            };
        }
        if Handle::try_current().is_err() {
            return Poll::Ready(Waited::NoTimer);
        }
        let left = duration(time.saturating_sub(self.now()));
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(left)));
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        // If the clock lags behind Tokio's, the caller waits for the rest.
        self.timer = None;
        Poll::Ready(Waited::LookAgain)
    }
}
