//! Runs calls in the task of their connection until they have to wait.
//!
//! Most calls are decided at once, and a task costs more than such a decision: it wakes another
//! thread, and its response wakes the connection again. So a connection first reads all calls that
//! have arrived, then handles them in its own task, and then writes all responses together. A call
//! that has to wait continues in a task.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use hyper_util::rt::TokioExecutor;

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
        poll_fn(|cx| self.poll(connection.as_mut(), cx)).await
    }

    /// Polls the connection, and the calls that it reads meanwhile, until both have to wait.
    ///
    /// It polls the connection again for as long as that brings calls. Tokio limits how much a
    /// task reads from its socket at a time, and so how long this takes.
    fn poll<C: Future>(
        &self,
        mut connection: Pin<&mut C>,
        cx: &mut Context<'_>,
    ) -> Poll<C::Output> {
        let mut calls = Vec::new();
        loop {
            self.collect(true, &mut calls);
            let polled = connection.as_mut().poll(cx);
            self.collect(false, &mut calls);
            if polled.is_ready() {
                calls.into_iter().for_each(spawn);
                return polled;
            }
            if calls.is_empty() {
                // The next poll collects with the same capacity.
                self.collect(false, &mut calls);
                return polled;
            }
            calls.drain(..).for_each(run);
        }
    }

    /// Begins or ends collecting, and exchanges the collected calls with `calls`, which is empty
    /// when collecting begins.
    fn collect(&self, polling: bool, calls: &mut Vec<Call>) {
        let mut collected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        collected.polling = polling;
        std::mem::swap(&mut collected.calls, calls);
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

    /// Runs a connection that reads these calls at once, and ends when it is polled again.
    async fn drive(calls: Vec<Call>) {
        let executor = CallExecutor::default();
        let clone = executor.clone();
        let mut calls = Some(calls);
        let connection = poll_fn(move |_| match calls.take() {
            Some(calls) => {
                calls.into_iter().for_each(|call| clone.execute(call));
                Poll::Pending
            }
            None => Poll::Ready(()),
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
        drive((0..100).map(|_| call() as Call).collect()).await;
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
        drive(calls).await;
        assert_eq!(ended.load(Relaxed), 1, "the first call waits");
        send.send(()).expect("the call waits");
        all_done.await.expect("the first call ends");
        assert_eq!(ended.load(Relaxed), 11);
    }

    #[tokio::test]
    async fn a_call_outside_of_a_poll_gets_a_task() {
        let (send, receive) = oneshot::channel();
        CallExecutor::default()
            .execute(async move { send.send(()).expect("the test waits for it") });
        receive.await.expect("the call ran");
        drive(vec![Box::pin(ready(()))]).await;
    }
}
