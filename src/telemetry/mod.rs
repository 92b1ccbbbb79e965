//! Sends one span for each accepted or rejected flow, in the form that the Agent's collector accepts.
//!
//! At its end a flow writes its span once, as a field of the message that is exported. It does so in
//! a buffer of its thread, and copies the bytes into a batch under the lock of the worker's queue.
//! The worker sends the batch as it is. At most 2048 spans and 16 MiB wait in a runtime, in batches
//! of at most 512 spans and 1 MiB; the buffers of the batches take at most twice the bytes of their
//! spans. This module does not use a tracer provider. Without the feature `telemetry`, the span of
//! a flow has a type without values, so that no batch is ever started.

mod absent;
mod attribute;
mod batch;
mod buffer;
#[cfg(feature = "telemetry")]
mod span;
#[cfg(not(feature = "telemetry"))]
mod span {
    pub(crate) type FlowSpan = std::convert::Infallible;
}

use crate::flow::{FlowOutcome, FlowParams};

pub(crate) use self::batch::SpanBatch;
pub(crate) use self::buffer::{SpanBuffer, SpanPush};
pub(crate) use self::span::FlowSpan;

/// The most bytes of a check response that a span carries. A response is larger only with cached
/// values, which the Agent does not read from a span.
pub(crate) const MAX_RESPONSE_BYTES: usize = batch::MAX_BATCH_BYTES / 2;

/// The span of a flow that has not ended.
pub(crate) trait OpenSpan: Sized {
    /// Starts the span of a flow. Returns `None` if no spans can be sent.
    fn start(params: &FlowParams<'_>) -> Option<Self>;

    /// Records the decision, which starts the work.
    fn start_workload(self) -> Self;

    /// Ends the flow, and passes its span as it is part of a batch. `response` is the Agent's
    /// response to the check, encoded.
    fn end<R>(self, outcome: FlowOutcome, response: &[u8], push: impl FnOnce(&[u8]) -> R) -> R;
}
