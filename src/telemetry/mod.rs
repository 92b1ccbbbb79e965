//! Sends one span for each accepted or rejected flow, in the form that the Agent's collector accepts.
//!
//! A flow leaves only a record; a background task makes spans of the records in batches. This module
//! does not use a tracer provider. Without the feature `telemetry`, the span of a flow has a type
//! without values, so that the queue of records stays empty.

mod absent;
mod buffer;
mod encode;
#[cfg(feature = "telemetry")]
mod span;
#[cfg(not(feature = "telemetry"))]
mod span {
    pub(crate) type FlowSpan = std::convert::Infallible;
}

use crate::flow::{FlowOutcome, FlowParams};
use crate::messages::check::CheckResponse;
use crate::messages::trace::Span;

pub(crate) use self::buffer::SpanBuffer;
pub(crate) use self::encode::encode;
pub(crate) use self::span::FlowSpan;

/// The record of a flow at its end.
pub(crate) type SpanRecord = <FlowSpan as OpenSpan>::Record;

/// The span of a flow that has not ended.
pub(crate) trait OpenSpan: Sized {
    type Record: Record;

    /// Starts the span of a flow. Returns `None` if no spans can be sent.
    fn start(params: &FlowParams<'_>) -> Option<Self>;

    /// Records the decision, which starts the work.
    fn start_workload(self) -> Self;

    fn end(self, outcome: FlowOutcome, response: CheckResponse) -> Self::Record;
}

/// What is kept of a flow after its end, to make a span.
pub(crate) trait Record {
    /// Returns the bytes of cached values, which are by far the largest part of a response with any.
    fn cached_bytes(&self) -> usize;

    fn into_span(self, trace_id: Vec<u8>, span_id: Vec<u8>) -> Span;
}
