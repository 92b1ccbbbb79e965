//! Sends the spans of flows in batches.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::call::EXPORT;
use super::failure::Failure;
use super::live::Live;
use crate::pb::trace_collector::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use crate::telemetry::{self, SpanRecord};

/// How long a span waits for others.
pub(super) const EXPORT_EVERY: Duration = Duration::from_secs(1);

/// Before the second try.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Exports spans in as many calls as their size asks for.
pub(super) async fn send(mut batch: Unsent, spans: Vec<SpanRecord>) {
    let mut spans = spans.into_iter().peekable();
    while spans.peek().is_some() {
        let chunk = telemetry::encode(&mut spans);
        let counters = &batch.live.shared.counters;
        if chunk.too_large > 0 {
            counters.spans_dropped.add(chunk.too_large);
            batch.left -= chunk.too_large;
        }
        if chunk.spans == 0 {
            continue;
        }
        let delivered = deliver(&batch.live, chunk.request).await;
        let counters = &batch.live.shared.counters;
        match delivered {
            Ok(response) => {
                let refused = response
                    .partial_success
                    .map_or(0, |partial| partial.rejected_spans);
                let refused = usize::try_from(refused).unwrap_or(0).min(chunk.spans);
                counters.spans_failed.add(refused);
                counters.spans_exported.add(chunk.spans - refused);
            }
            Err(failure) => {
                counters.spans_failed.add(chunk.spans);
                log_event!(
                    debug,
                    spans = chunk.spans,
                    reason = %failure.into_error(),
                    "spans could not be exported"
                );
                #[cfg(not(feature = "tracing"))]
                drop(failure);
            }
        }
        batch.left -= chunk.spans;
    }
}

/// To any Agent, and to another the second time, if there is one. Waits for one while all are given
/// up, no longer than a call may take.
async fn deliver(
    live: &Arc<Live>,
    request: ExportTraceServiceRequest,
) -> Result<ExportTraceServiceResponse, Failure> {
    let timeout = live.shared.config.background_timeout();
    let until = Instant::now() + timeout;
    let request = Arc::new(request);
    let mut tried = 0;
    loop {
        let Some(at) = live.wait_for_route(None, tried, until).await else {
            return Err(Failure::given_up());
        };
        let answer = live
            .call_at(at, EXPORT, Arc::clone(&request), Some(timeout))
            .await;
        match answer {
            Err(failure) if tried == 0 && !failure.is_final() => tried = 1 << at,
            outcome => return outcome,
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Spans taken from the buffer; those still unsent when the task is dropped have failed.
pub(super) struct Unsent {
    live: Arc<Live>,
    left: usize,
}

impl Unsent {
    /// Spans that the queue counts as under way.
    pub(super) fn new(live: &Arc<Live>, spans: &[SpanRecord]) -> Self {
        Self {
            live: Arc::clone(live),
            left: spans.len(),
        }
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.live.shared.counters.spans_failed.add(self.left);
        self.live.queue().exports -= 1;
    }
}
