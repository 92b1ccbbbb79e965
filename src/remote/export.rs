//! Exports the spans of flows in batches.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::call::EXPORT;
use super::failure::CallFailure;
use super::message::OutgoingMessage;
use super::state::RuntimeState;
use crate::messages::trace_collector::ExportTraceServiceResponse;
use crate::telemetry::SpanBatch;

/// How long a span waits for others to fill its batch.
pub(super) const EXPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The pause before the retry.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Exports a batch of spans in one call, and once more if that fails.
pub(super) async fn send(mut unsent: UnsentSpans, batch: SpanBatch) {
    let spans = batch.len();
    let message = OutgoingMessage::from_framed(batch.into_message());
    let delivered = export_with_retry(&unsent.runtime, &message).await;
    let counters = &unsent.runtime.shared.counters;
    match delivered {
        Ok(response) => {
            let rejected = response
                .partial_success
                .map_or(0, |partial| partial.rejected_spans);
            let rejected = usize::try_from(rejected).unwrap_or(0).min(spans);
            counters.spans_failed.add(rejected);
            counters.spans_exported.add(spans - rejected);
        }
        Err(failure) => {
            counters.spans_failed.add(spans);
            log_event!(
                debug,
                spans,
                reason = %failure.into_error(),
                "spans could not be exported"
            );
        }
    }
    unsent.remaining = 0;
}

/// Exports to any Agent, with one retry at another Agent if there is one. While all Agents are
/// given up, it waits for one, at most for the timeout of a call.
async fn export_with_retry(
    runtime: &Arc<RuntimeState>,
    message: &OutgoingMessage,
) -> Result<ExportTraceServiceResponse, CallFailure> {
    let timeout = runtime.shared.config.background_timeout();
    let until = Instant::now() + timeout;
    let mut tried = 0;
    loop {
        let Some(agent_index) = runtime.wait_for_route(None, tried, until).await else {
            return Err(CallFailure::given_up());
        };
        let answer = runtime
            .call_agent(agent_index, EXPORT, message, Some(timeout))
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
    /// Counts this many spans as unsent. The caller has added the export to the queue's count.
    pub(super) fn new(runtime: &Arc<RuntimeState>, spans: usize) -> Self {
        Self {
            runtime: Arc::clone(runtime),
            remaining: spans,
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
