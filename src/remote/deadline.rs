//! Timeouts that hold outside a runtime too.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;

/// Waits for `future` no longer than `timeout`.
///
/// Within a runtime its timer tells the time. Outside, a thread does: the runtimes of the client may
/// stand still.
pub(super) async fn within<F: Future>(timeout: Duration, future: F) -> Option<F::Output> {
    if Handle::try_current().is_ok() {
        return tokio::time::timeout(timeout, future).await.ok();
    }
    let alarm = Alarm::start(timeout);
    let mut future = pin!(future);
    poll_fn(|cx| {
        // Before the future is polled, so that it is polled once more after the alarm.
        let over = alarm.is_over(cx.waker());
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if over => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A thread that wakes a task at a time. It ends when this is dropped.
struct Alarm {
    state: Arc<Mutex<State>>,
    _thread: Option<mpsc::Sender<()>>,
}

#[derive(Default)]
struct State {
    over: bool,
    waker: Option<Waker>,
}

impl Alarm {
    fn start(timeout: Duration) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let (dropped, is_dropped) = mpsc::channel::<()>();
        let rung = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("aperture-timeout".to_owned())
            .spawn(move || {
                if is_dropped.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
                    ring(&rung);
                }
            });
        if thread.is_err() {
            // Better too early than never.
            ring(&state);
        }
        Self {
            state,
            _thread: thread.is_ok().then_some(dropped),
        }
    }

    /// Returns `true` when the time is over; wakes the task later if it is not.
    fn is_over(&self, waker: &Waker) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.over {
            state.waker = Some(waker.clone());
        }
        state.over
    }
}

fn ring(state: &Mutex<State>) {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.over = true;
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}
