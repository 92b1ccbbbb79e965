//! Runs calls in the task of their connection until they have to wait.
//!
//! Most calls are decided at once, and a task costs more than such a decision: it wakes another
//! thread, and its response wakes the connection again. So a connection first reads all calls that
//! have arrived, then handles them in its own task, and writes their responses in batches. A call
//! that has to wait continues in a task.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use hyper_util::rt::TokioExecutor;

/// The calls that are handled before their responses are written, so that the caller can go on
/// while the next ones are handled.
const MAX_BATCH: usize = 16;

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Collects the calls that a connection reads, at most as many as it may have concurrent streams.
///
/// Clones collect for the same connection.
#[derive(Clone, Default)]
pub(super) struct CallExecutor(Arc<Mutex<Collected>>);

#[derive(Default)]
struct Collected {
    /// The connection is being polled, so that the calls are taken afterwards.
    polling: bool,
    calls: Vec<Call>,
}

impl CallExecutor {
    /// Runs a connection, which executes calls with a clone of this executor.
    pub(super) async fn drive<C: Future>(&self, mut connection: Pin<&mut C>) -> C::Output {
        let waker = Arc::new(ConnectionWaker::default());
        let as_waker = Waker::from(Arc::clone(&waker));
        poll_fn(|cx| {
            waker.set_task(cx.waker());
            self.poll(
                connection.as_mut(),
                &waker,
                &mut Context::from_waker(&as_waker),
            )
        })
        .await
    }

    /// Polls the connection, and the calls that it reads meanwhile, until both have to wait.
    ///
    /// It polls the connection again for as long as that brings calls. Tokio limits how much a
    /// task reads from its socket at a time, and so how long this takes.
    fn poll<C: Future>(
        &self,
        mut connection: Pin<&mut C>,
        waker: &ConnectionWaker,
        cx: &mut Context<'_>,
    ) -> Poll<C::Output> {
        let mut calls = VecDeque::new();
        loop {
            self.collect(true, &mut calls);
            let polled = connection.as_mut().poll(cx);
            self.collect(false, &mut calls);
            if polled.is_ready() {
                calls.drain(..).for_each(spawn);
            }
            if calls.is_empty() {
                return polled;
            }
            waker.ignore_wakes(true);
            let batch = calls.len().min(MAX_BATCH);
            calls.drain(..batch).for_each(run);
            waker.ignore_wakes(false);
        }
    }

    /// Begins or ends collecting. At the end, the collected calls are appended to `calls`.
    fn collect(&self, polling: bool, calls: &mut VecDeque<Call>) {
        let mut collected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        collected.polling = polling;
        calls.extend(collected.calls.drain(..));
    }
}

/// The waker of a connection. It wakes the task of the connection, but not while that task handles
/// calls.
///
/// A response wakes its connection to be written. The task polls the connection after the calls
/// anyway; if it were woken, it would be scheduled once more, and another thread with it.
struct ConnectionWaker {
    ignores_wakes: AtomicBool,
    task: Mutex<Waker>,
}

impl Default for ConnectionWaker {
    fn default() -> Self {
        Self {
            ignores_wakes: AtomicBool::new(false),
            task: Mutex::new(Waker::noop().clone()),
        }
    }
}

impl ConnectionWaker {
    fn set_task(&self, waker: &Waker) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        task.clone_from(waker);
    }

    /// Begins or ends ignoring wakes. The connection must be polled after the end.
    fn ignore_wakes(&self, ignore: bool) {
        self.ignores_wakes.store(ignore, SeqCst);
    }
}

impl Wake for ConnectionWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.ignores_wakes.load(SeqCst) {
            let task = self.task.lock();
            let task = task.unwrap_or_else(PoisonError::into_inner).clone();
            task.wake();
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for CallExecutor {
    fn execute(&self, call: F) {
        let call = Box::pin(call);
        let mut collected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if collected.polling {
            return collected.calls.push(call);
        }
        drop(collected);
        spawn(call);
    }
}

/// Polls a call once, and gives it a task if it has to wait.
///
/// The task polls it again with its own waker, so that none is needed here. A panic ends this call
/// alone, as it would in a task.
fn run(mut call: Call) {
    let mut cx = Context::from_waker(Waker::noop());
    let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut cx)));
    if matches!(polled, Ok(Poll::Pending)) {
        spawn(call);
    }
}

fn spawn(call: Call) {
    hyper::rt::Executor::execute(&TokioExecutor::new(), call);
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::thread::{self, ThreadId};

    use hyper::rt::Executor as _;
    use tokio::sync::oneshot;

    use super::*;

    /// Runs a connection that reads these calls at once, and ends when it is polled again and is over.
    async fn drive(calls: Vec<Call>, is_over: impl Fn() -> bool) {
        let executor = CallExecutor::default();
        let clone = executor.clone();
        let mut calls = Some(calls);
        let connection = poll_fn(move |_| match calls.take() {
            Some(calls) => {
                calls.into_iter().for_each(|call| clone.execute(call));
                Poll::Pending
            }
            None if is_over() => Poll::Ready(()),
            None => Poll::Pending,
        });
        executor.drive(std::pin::pin!(connection)).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn calls_that_need_not_wait_run_in_the_task_of_their_connection() {
        let threads: Arc<Mutex<Vec<ThreadId>>> = Arc::default();
        let call = || {
            let threads = Arc::clone(&threads);
            Box::pin(async move {
                let mut threads = threads.lock().expect("no panic");
                threads.push(thread::current().id());
            })
        };
        let calls = (0..100).map(|_| call() as Call).collect();
        drive(calls, || threads.lock().expect("no panic").len() == 100).await;
        assert_eq!(
            *threads.lock().expect("no panic"),
            [thread::current().id(); 100]
        );
    }

    #[tokio::test]
    async fn a_call_that_waits_or_panics_holds_up_no_other() {
        let (send, receive) = oneshot::channel();
        let ended = Arc::new(AtomicUsize::new(0));
        let (first, last) = (Arc::clone(&ended), Arc::clone(&ended));
        let (done, all_done) = oneshot::channel();
        let calls: Vec<Call> = vec![
            Box::pin(async move {
                receive.await.expect("a value");
                first.fetch_add(10, Relaxed);
                done.send(()).expect("the test waits for it");
            }),
            Box::pin(async { panic!("only this call ends") }),
            Box::pin(pending()),
            Box::pin(async move {
                last.fetch_add(1, Relaxed);
            }),
        ];
        drive(calls, || true).await;
        assert_eq!(ended.load(Relaxed), 1, "the first call waits");
        send.send(()).expect("the call waits");
        all_done.await.expect("the first call ends");
        assert_eq!(ended.load(Relaxed), 11);
    }

    #[tokio::test]
    async fn a_wake_by_a_call_polls_its_connection_again_without_another_turn_of_the_task() {
        let executor = CallExecutor::default();
        let clone = executor.clone();
        let (polls, turns) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let polled = Arc::clone(&polls);
        let connection = poll_fn(move |cx: &mut Context<'_>| {
            let waker = cx.waker().clone();
            match polled.fetch_add(1, Relaxed) {
                0 => clone.execute(async move { waker.wake() }),
                // Outside of calls, a wake means another turn.
                1 => waker.wake(),
                _ => return Poll::Ready(()),
            }
            Poll::Pending
        });
        let connection = std::pin::pin!(connection);
        let mut connection = std::pin::pin!(executor.drive(connection));
        poll_fn(|cx| {
            turns.fetch_add(1, Relaxed);
            connection.as_mut().poll(cx)
        })
        .await;
        assert_eq!((polls.load(Relaxed), turns.load(Relaxed)), (3, 2));
    }

    #[tokio::test]
    async fn a_call_outside_of_a_poll_gets_a_task() {
        let (send, receive) = oneshot::channel();
        CallExecutor::default()
            .execute(async move { send.send(()).expect("the test waits for it") });
        receive.await.expect("the call ran");
        drive(vec![Box::pin(ready(()))], || true).await;
    }
}
