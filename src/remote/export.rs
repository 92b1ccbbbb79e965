//! Exports the spans of flows in batches.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::call::EXPORT;
use super::failure::CallFailure;
use super::message::OutgoingMessage;
use super::state::RuntimeState;
use crate::messages::trace_collector::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use crate::telemetry::{self, SpanRecord};

/// How long a span waits for others to fill its batch.
pub(super) const EXPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The pause before the retry.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Exports spans, in as many calls as their size requires.
pub(super) async fn send(mut batch: UnsentSpans, spans: Vec<SpanRecord>) {
    let mut spans = spans.into_iter().peekable();
    while spans.peek().is_some() {
        let chunk = telemetry::encode(&mut spans);
        let counters = &batch.runtime.shared.counters;
        if chunk.too_large > 0 {
            counters.spans_dropped.add(chunk.too_large);
            batch.remaining -= chunk.too_large;
        }
        if chunk.spans == 0 {
            continue;
        }
        let delivered = export_with_retry(&batch.runtime, &chunk.request).await;
        let counters = &batch.runtime.shared.counters;
        match delivered {
            Ok(response) => {
                let rejected = response
                    .partial_success
                    .map_or(0, |partial| partial.rejected_spans);
                let rejected = usize::try_from(rejected).unwrap_or(0).min(chunk.spans);
                counters.spans_failed.add(rejected);
                counters.spans_exported.add(chunk.spans - rejected);
            }
            Err(failure) => {
                counters.spans_failed.add(chunk.spans);
                log_event!(
                    debug,
                    spans = chunk.spans,
                    reason = %failure.into_error(),
                    "spans could not be exported"
                );
            }
        }
        batch.remaining -= chunk.spans;
    }
}

/// Exports to any Agent, with one retry at another Agent if there is one. While all Agents are
/// given up, it waits for one, at most for the timeout of a call.
async fn export_with_retry(
    runtime: &Arc<RuntimeState>,
    request: &ExportTraceServiceRequest,
) -> Result<ExportTraceServiceResponse, CallFailure> {
    let timeout = runtime.shared.config.background_timeout();
    let until = Instant::now() + timeout;
    let message = OutgoingMessage::new(request);
    let mut tried = 0;
    loop {
        let Some(agent_index) = runtime.wait_for_route(None, tried, until).await else {
            return Err(CallFailure::given_up());
        };
        let answer = runtime
            .call_agent(agent_index, EXPORT, &message, Some(timeout))
            .await;
        match answer {
            Err(failure) if tried == 0 && !failure.is_permanent() => tried = 1 << agent_index,
            outcome => return outcome,
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Spans taken from the buffer. Those not sent when this is dropped count as failed.
pub(super) struct UnsentSpans {
    runtime: Arc<RuntimeState>,
    remaining: usize,
}

impl UnsentSpans {
    /// Counts these spans as unsent. The caller has added the export to the queue's count.
    pub(super) fn new(runtime: &Arc<RuntimeState>, spans: &[SpanRecord]) -> Self {
        Self {
            runtime: Arc::clone(runtime),
            remaining: spans.len(),
        }
    }
}

impl Drop for UnsentSpans {
    fn drop(&mut self) {
        self.runtime
            .shared
            .counters
            .spans_failed
            .add(self.remaining);
        self.runtime.queue().exports -= 1;
    }
}
