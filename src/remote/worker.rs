use std::future::poll_fn;
#[cfg(feature = "telemetry")]
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::task::JoinSet;
#[cfg(feature = "telemetry")]
use tokio::time::Sleep;

#[cfg(feature = "telemetry")]
use super::export::{self, EXPORT_EVERY};
use super::flow_end::{self, Batch};
use super::live::{Live, Phase};

/// Calls of FlowEnd at once: one that hangs does not hold up the others.
const PARALLEL_ENDS: usize = 8;

/// Starts the worker that serves `live`, in its runtime.
pub(super) fn start(live: &Arc<Live>) {
    let mut worker = Worker {
        live: Arc::clone(live),
        ends: JoinSet::new(),
        cache_writes: JoinSet::new(),
        #[cfg(feature = "telemetry")]
        exports: JoinSet::new(),
        #[cfg(feature = "telemetry")]
        flush: None,
    };
    live.handle()
        .spawn(async move { poll_fn(|cx| worker.poll(cx)).await });
}

/// Sends what flows leave behind. Its drop is the end of the runtime, or of the client.
struct Worker {
    live: Arc<Live>,
    ends: JoinSet<()>,
    cache_writes: JoinSet<()>,
    #[cfg(feature = "telemetry")]
    exports: JoinSet<()>,
    /// When the spans that wait are due.
    #[cfg(feature = "telemetry")]
    flush: Option<Pin<Box<Sleep>>>,
}

impl Worker {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // Also registers for the calls that still run.
            while let Poll::Ready(Some(_)) = self.ends.poll_join_next(cx) {}
            while let Poll::Ready(Some(_)) = self.cache_writes.poll_join_next(cx) {}
            #[cfg(feature = "telemetry")]
            while let Poll::Ready(Some(_)) = self.exports.poll_join_next(cx) {}
            #[cfg(feature = "telemetry")]
            let due = match &mut self.flush {
                Some(flush) => flush.as_mut().poll(cx).is_ready(),
                None => false,
            };

            let mut queue = self.live.queue();
            if queue.phase == Phase::GivenUp {
                return Poll::Ready(());
            }
            let batch: Option<Batch> = if self.ends.len() < PARALLEL_ENDS {
                flow_end::take_batch(&mut queue.ends, &self.live)
            } else {
                None
            };
            let write = queue.cache_writes.start_next(&self.live);
            #[cfg(feature = "telemetry")]
            let spans = if self.exports.is_empty()
                && (due || queue.phase == Phase::Draining || queue.spans.has_batch())
            {
                queue.spans.take_batch()
            } else {
                None
            };
            #[cfg(feature = "telemetry")]
            let (nothing, arm) = (
                batch.is_none() && write.is_none() && spans.is_none(),
                !queue.spans.is_empty() && self.flush.is_none(),
            );
            #[cfg(not(feature = "telemetry"))]
            let (nothing, arm) = (batch.is_none() && write.is_none(), false);
            if nothing && !arm {
                if queue.phase == Phase::Draining && queue.is_empty() && self.is_idle() {
                    // Under the lock: what comes later is turned away, and counted.
                    queue.phase = Phase::Closed;
                    return Poll::Ready(());
                }
                queue.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            drop(queue);

            if let Some(batch) = batch {
                self.ends.spawn(batch.send());
            }
            if let Some(write) = write {
                self.cache_writes.spawn(write.send());
            }
            #[cfg(feature = "telemetry")]
            {
                if let Some(spans) = spans {
                    self.flush = None;
                    self.exports
                        .spawn(export::send(Arc::clone(&self.live), spans));
                } else if arm {
                    self.flush = Some(Box::pin(tokio::time::sleep(EXPORT_EVERY)));
                }
            }
        }
    }

    fn is_idle(&self) -> bool {
        #[cfg(feature = "telemetry")]
        let exported = self.exports.is_empty();
        #[cfg(not(feature = "telemetry"))]
        let exported = true;
        exported && self.ends.is_empty() && self.cache_writes.is_empty()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.live.close();
    }
}
