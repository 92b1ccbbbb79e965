//! A timeout that works inside and outside a runtime.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;

/// Waits for `future` no longer than `timeout`. Returns `None` if the timeout passes first.
///
/// Inside a runtime this uses its timer. Outside it uses a thread, because the runtimes of the
/// client may stall.
pub(super) async fn timeout_anywhere<F: Future>(timeout: Duration, future: F) -> Option<F::Output> {
    if Handle::try_current().is_ok() {
        return tokio::time::timeout(timeout, future).await.ok();
    }
    let timer = ThreadTimer::start(timeout);
    let mut future = pin!(future);
    poll_fn(|cx| {
        // Read before the future is polled, so that the future is polled once more after the timer
        // has fired.
        let over = timer.is_over(cx.waker());
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if over => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A thread that wakes a task at a given time. It ends when this is dropped.
struct ThreadTimer {
    state: Arc<Mutex<State>>,
    _thread: Option<mpsc::Sender<()>>,
}

#[derive(Default)]
struct State {
    over: bool,
    waker: Option<Waker>,
}

impl ThreadTimer {
    fn start(timeout: Duration) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let (dropped, is_dropped) = mpsc::channel::<()>();
        let timer_state = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("aperture-timeout".to_owned())
            .spawn(move || {
                if is_dropped.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
                    fire(&timer_state);
                }
            });
        if thread.is_err() {
            // Firing at once is better than never.
            fire(&state);
        }
        Self {
            state,
            _thread: thread.is_ok().then_some(dropped),
        }
    }

    /// Returns `true` if the time has passed. Otherwise the task is woken when it does.
    fn is_over(&self, waker: &Waker) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.over {
            state.waker = Some(waker.clone());
        }
        state.over
    }
}

fn fire(state: &Mutex<State>) {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.over = true;
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}
