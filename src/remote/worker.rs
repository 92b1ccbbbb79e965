//! The worker of one runtime, which sends ends, cache writes and spans.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::Sleep;

use super::cache_write_call::InFlightWrite;
use super::end_batch::EndBatch;
use super::export::{self, EXPORT_INTERVAL, UnsentSpans};
use super::queue::WorkerPhase;
use super::state::RuntimeState;

/// A runtime counts as stalled when its worker has not run for this long after it was woken.
const STALLED_AFTER: Duration = Duration::from_millis(250);

/// How often a worker that runs anyway checks for stalled runtimes.
const STALL_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The number of checks for stalled runtimes after each request for one.
const MAX_STALL_CHECKS: u8 = 8;

/// Starts the worker of `runtime` in that runtime.
pub(super) fn start(runtime: &Arc<RuntimeState>) {
    let mut worker = Worker {
        runtime: Arc::clone(runtime),
        calls: JoinSet::new(),
        export_timer: None,
        stall_check_timer: None,
        stall_checks_left: 0,
        last_stall_check: Instant::now(),
    };
    runtime
        .handle()
        .spawn(async move { poll_fn(|cx| worker.poll(cx)).await });
}

/// The task that sends the queued work of one runtime. It is dropped when the runtime or the client
/// ends.
struct Worker {
    runtime: Arc<RuntimeState>,
    /// Ends, cache writes and exports in flight. The queue bounds the number of each.
    calls: JoinSet<()>,
    /// The timer after which a partial batch of spans is exported.
    export_timer: Option<Pin<Box<Sleep>>>,
    /// The timer of the next check for stalled runtimes.
    stall_check_timer: Option<Pin<Box<Sleep>>>,
    stall_checks_left: u8,
    last_stall_check: Instant,
}

impl Worker {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.runtime.queue().mark_running();
        self.check_stalled_runtimes(cx);
        loop {
            // Also registers the waker with the calls that still run.
            while let Poll::Ready(Some(_)) = self.calls.poll_join_next(cx) {}
            let due = is_due(&mut self.export_timer, cx);

            let mut queue = self.runtime.queue();
            if queue.phase == WorkerPhase::Closed {
                return Poll::Ready(());
            }
            let ends = queue.ends.start_call();
            let write = queue.cache_writes.start_next();
            let spans = if queue.exports == 0
                && (due || queue.phase == WorkerPhase::Draining || queue.spans.has_batch())
            {
                queue.spans.take_batch()
            } else {
                None
            };
            if spans.is_some() {
                queue.exports += 1;
            }
            let idle = ends.is_none() && write.is_none() && spans.is_none();
            let arm_timer = !queue.spans.is_empty() && self.export_timer.is_none();
            if idle && !arm_timer {
                let open_flows = self.runtime.shared.open_flows();
                if queue.phase == WorkerPhase::Draining && open_flows == 0 && queue.is_done() {
                    // Set under the lock, so that later work is refused and counted.
                    queue.phase = WorkerPhase::Closed;
                    return Poll::Ready(());
                }
                queue.mark_sleeping(cx.waker());
                return Poll::Pending;
            }
            drop(queue);

            if let Some(jobs) = ends {
                self.calls.spawn(EndBatch::new(&self.runtime, jobs).send());
            }
            if let Some(write) = write {
                let write = InFlightWrite::new(&self.runtime, write);
                self.calls.spawn(write.send());
            }
            if let Some(spans) = spans {
                self.export_timer = None;
                let unsent = UnsentSpans::new(&self.runtime, spans.len());
                self.calls.spawn(export::send(unsent, spans));
            } else if arm_timer {
                self.export_timer = Some(Box::pin(tokio::time::sleep(EXPORT_INTERVAL)));
            }
        }
    }

    /// Takes over the work of stalled runtimes if the client is used in several. It checks for them
    /// from time to time while it runs anyway, and for a while after each request for a check.
    fn check_stalled_runtimes(&mut self, cx: &mut Context<'_>) {
        let requested = std::mem::take(&mut self.runtime.queue().stall_check_requested);
        if requested {
            self.stall_checks_left = MAX_STALL_CHECKS;
        } else if self.runtime.shared.runtimes().len() < 2 {
            return;
        }
        let due = is_due(&mut self.stall_check_timer, cx);
        if due || self.last_stall_check.elapsed() >= STALL_CHECK_INTERVAL {
            self.last_stall_check = Instant::now();
            if !self.runtime.take_over_stalled(STALLED_AFTER) {
                self.stall_checks_left = 0;
                self.stall_check_timer = None;
            }
        }
        if self.stall_checks_left > 0 && (due || self.stall_check_timer.is_none()) {
            self.stall_checks_left -= 1;
            let mut timer = Box::pin(tokio::time::sleep(STALLED_AFTER));
            // Polled once to register the waker.
            let _ = timer.as_mut().poll(cx);
            self.stall_check_timer = Some(timer);
        }
    }
}

/// Returns `true` once the timer, if one is set, has fired.
fn is_due(timer: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
    match timer {
        Some(timer) => timer.as_mut().poll(cx).is_ready(),
        None => false,
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.runtime.close();
    }
}
