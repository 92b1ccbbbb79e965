//! The span of a flow, from its start to what is written at its end.

mod encoder;
mod ids;
mod timestamps;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use self::encoder::SpanEncoder;
use self::timestamps::Timestamps;
use super::OpenSpan;
use super::attribute::{put_attribute, put_text};
use crate::flow::{FlowOutcome, FlowParams, FlowStatus, TraceContext, TraceParent};
use crate::messages::generated::opentelemetry::proto::trace::v1::span::SpanKind;
use crate::protobuf::{put_bytes, put_bytes_unless_empty, put_key, put_len, put_message, put_uint};

const NAME: &str = "Aperture Check";
/// The OTLP flags of a link to a span of another process: `HAS_IS_REMOTE` and `IS_REMOTE`.
const REMOTE_LINK_FLAGS: u32 = 0x300;

/// The span of a flow that has not ended.
pub(crate) struct FlowSpan {
    timestamps: Timestamps,
    /// The trace of the request, to which the span links.
    trace: Option<Box<TraceParent>>,
}

/// The content of the span of a flow that has ended. Times are Unix nanoseconds.
struct SpanRecord<'a> {
    flow_start: u64,
    workload_start: u64,
    flow_end: u64,
    outcome: FlowOutcome,
    /// The response to the check, encoded.
    response: &'a [u8],
    /// The trace of the request, to which the span links.
    trace: Option<&'a TraceParent>,
}

impl OpenSpan for FlowSpan {
    fn start(params: &FlowParams<'_>) -> Option<Self> {
        let trace = params.trace_context.as_ref();
        Some(Self {
            timestamps: Timestamps::start(),
            trace: trace.and_then(TraceContext::parse).map(Box::new),
        })
    }

    fn start_workload(self) -> Self {
        Self {
            timestamps: self.timestamps.start_workload(),
            ..self
        }
    }

    fn end<R>(self, outcome: FlowOutcome, response: &[u8], push: impl FnOnce(&[u8]) -> R) -> R {
        let record = SpanRecord {
            flow_start: self.timestamps.flow_start(),
            workload_start: self.timestamps.workload_start(),
            flow_end: self.timestamps.now(),
            outcome,
            response,
            trace: self.trace.as_deref(),
        };
        record.push(push)
    }
}

impl SpanRecord<'_> {
    /// Passes the span, with new ids, as a field of a batch.
    fn push<R>(&self, push: impl FnOnce(&[u8]) -> R) -> R {
        SpanEncoder::with(|SpanEncoder { ids, buffer }| {
            let (trace_id, span_id) = ids.draw();
            // The tag of the spans in `ScopeSpans`.
            put_message(buffer, 2, |span| self.encode(trace_id, span_id, span));
            push(buffer)
        })
    }

    /// Writes the fields of the span.
    fn encode(&self, trace_id: [u8; 16], span_id: [u8; 8], span: &mut Vec<u8>) {
        put_bytes(span, 1, trace_id);
        put_bytes(span, 2, span_id);
        put_bytes(span, 5, NAME);
        put_uint(span, 6, SpanKind::Internal as u64);
        put_fixed64(span, 7, self.flow_start);
        put_fixed64(span, 8, self.flow_end);
        self.put_attributes(span);
        // A link and not a parent: the span is about the flow, for the Agent, and not part of the
        // application's trace.
        if let Some(trace) = self.trace {
            put_message(span, 13, |link| {
                put_bytes(link, 1, trace.trace_id);
                put_bytes(link, 2, trace.span_id);
                put_bytes_unless_empty(link, 3, &trace.state);
                put_fixed32(link, 6, u32::from(trace.flags) | REMOTE_LINK_FLAGS);
            });
        }
    }

    fn put_attributes(&self, span: &mut Vec<u8>) {
        const TAG: u8 = 9;
        let status = self.outcome.status;
        put_text(span, TAG, "aperture.source", "sdk");
        put_text(span, TAG, "aperture.flow.status", status.as_str());
        put_attribute(span, TAG, "aperture.check_response", |any| {
            let len = self.response.len().div_ceil(3) * 4;
            put_len(any, 1, len);
            let start = any.len();
            any.resize(start + len, 0);
            // The slice has exactly the length of the encoding.
            let _ = STANDARD.encode_slice(self.response, &mut any[start..]);
        });
        // The Agent reads the milliseconds, its conformance tool the nanoseconds.
        for (nanos_key, millis_key, nanos) in [
            (
                "aperture.flow_start_timestamp",
                "aperture.flow_start_timestamp_ms",
                self.flow_start,
            ),
            (
                "aperture.workload_start_timestamp",
                "aperture.workload_start_timestamp_ms",
                self.workload_start,
            ),
            (
                "aperture.flow_end_timestamp",
                "aperture.flow_end_timestamp_ms",
                self.flow_end,
            ),
        ] {
            // The attribute is signed.
            let nanos = nanos.min(i64::MAX as u64);
            put_int(span, TAG, nanos_key, nanos);
            put_int(span, TAG, millis_key, nanos / 1_000_000);
        }
        if let Some(code) = self.outcome.http_status {
            // The Agent treats a code below 400 as success, regardless of the flow status. With the
            // code, a flow that failed after its response head was sent would count as successful.
            if status != FlowStatus::Error || code.as_u16() >= 400 {
                put_text(span, TAG, "http.status_code", code.as_str());
            }
        }
    }
}

/// Writes a field of the type `fixed64`.
fn put_fixed64(buffer: &mut Vec<u8>, tag: u8, value: u64) {
    const FIXED_64: u8 = 1;
    put_key(buffer, tag, FIXED_64);
    buffer.extend_from_slice(&value.to_le_bytes());
}

/// Writes a field of the type `fixed32`.
fn put_fixed32(buffer: &mut Vec<u8>, tag: u8, value: u32) {
    const FIXED_32: u8 = 5;
    put_key(buffer, tag, FIXED_32);
    buffer.extend_from_slice(&value.to_le_bytes());
}

/// Writes an attribute with an integer.
fn put_int(buffer: &mut Vec<u8>, tag: u8, key: &str, value: u64) {
    put_attribute(buffer, tag, key, |any| put_uint(any, 3, value));
}

#[cfg(test)]
mod tests;
