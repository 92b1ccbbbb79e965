//! The worker of one runtime: sends what flows leave behind.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::Sleep;

#[cfg(feature = "telemetry")]
use super::export::{self, EXPORT_EVERY, Unsent};
use super::flow_end::Batch;
use super::live::Live;
use super::queue::Phase;
use super::runtimes::STANDS_STILL;

/// How often a worker that runs anyway looks after runtimes that stand still.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks at other runtimes after one call to do so.
const MAX_ROUNDS: u8 = 8;

/// Starts the worker that serves `live`, in its runtime.
pub(super) fn start(live: &Arc<Live>) {
    let mut worker = Worker {
        live: Arc::clone(live),
        calls: JoinSet::new(),
        #[cfg(feature = "telemetry")]
        flush: None,
        patrol: None,
        rounds: 0,
        looked: Instant::now(),
    };
    live.handle()
        .spawn(async move { poll_fn(|cx| worker.poll(cx)).await });
}

/// Sends what flows leave behind. Its drop is the end of the runtime, or of the client.
struct Worker {
    live: Arc<Live>,
    /// Ends, changes to caches and exports under way; the queue bounds each.
    calls: JoinSet<()>,
    /// When the spans that wait are due.
    #[cfg(feature = "telemetry")]
    flush: Option<Pin<Box<Sleep>>>,
    /// When to look after runtimes that stand still.
    patrol: Option<Pin<Box<Sleep>>>,
    rounds: u8,
    looked: Instant,
}

impl Worker {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.live.queue().runs();
        self.look_after_others(cx);
        loop {
            // Also registers for the calls that still run.
            while let Poll::Ready(Some(_)) = self.calls.poll_join_next(cx) {}
            #[cfg(feature = "telemetry")]
            let due = is_due(&mut self.flush, cx);

            let mut queue = self.live.queue();
            if queue.phase == Phase::Closed {
                return Poll::Ready(());
            }
            let ends = queue.ends.next_call();
            let write = queue.cache_writes.start_next(&self.live);
            #[cfg(feature = "telemetry")]
            let spans = if queue.exports == 0
                && (due || queue.phase == Phase::Draining || queue.spans.has_batch())
            {
                queue.spans.take_batch()
            } else {
                None
            };
            #[cfg(feature = "telemetry")]
            if spans.is_some() {
                queue.exports += 1;
            }
            #[cfg(feature = "telemetry")]
            let (nothing, arm) = (
                ends.is_none() && write.is_none() && spans.is_none(),
                !queue.spans.is_empty() && self.flush.is_none(),
            );
            #[cfg(not(feature = "telemetry"))]
            let (nothing, arm) = (ends.is_none() && write.is_none(), false);
            if nothing && !arm {
                let open = self.live.shared.open_flows();
                if queue.phase == Phase::Draining && open == 0 && queue.is_done() {
                    // Under the lock: work that comes later is refused, and counted.
                    queue.phase = Phase::Closed;
                    return Poll::Ready(());
                }
                queue.sleeps(cx.waker());
                return Poll::Pending;
            }
            drop(queue);

            if let Some(jobs) = ends {
                self.calls.spawn(Batch::new(&self.live, jobs).send());
            }
            if let Some(write) = write {
                self.calls.spawn(write.send());
            }
            #[cfg(feature = "telemetry")]
            {
                if let Some(spans) = spans {
                    self.flush = None;
                    let unsent = Unsent::new(&self.live, &spans);
                    self.calls.spawn(export::send(unsent, spans));
                } else if arm {
                    self.flush = Some(Box::pin(tokio::time::sleep(EXPORT_EVERY)));
                }
            }
        }
    }

    /// Takes over work of runtimes that stand still, where the client is in use in several: now and
    /// then while it runs anyway, and some time after it was called to do so.
    fn look_after_others(&mut self, cx: &mut Context<'_>) {
        let called = std::mem::take(&mut self.live.queue().patrol);
        if called {
            self.rounds = MAX_ROUNDS;
        } else if self.live.shared.lives().len() < 2 {
            return;
        }
        let due = is_due(&mut self.patrol, cx);
        if due || self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            if !self.live.rescue(STANDS_STILL) {
                self.rounds = 0;
                self.patrol = None;
            }
        }
        if self.rounds > 0 && (due || self.patrol.is_none()) {
            self.rounds -= 1;
            let mut patrol = Box::pin(tokio::time::sleep(STANDS_STILL));
            // Registers for it.
            let _ = patrol.as_mut().poll(cx);
            self.patrol = Some(patrol);
        }
    }
}

/// Returns `true` once a timer that is set has fired.
fn is_due(timer: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
    match timer {
        Some(timer) => timer.as_mut().poll(cx).is_ready(),
        None => false,
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.live.close();
    }
}
