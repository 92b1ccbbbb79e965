//! The span of a flow, from its start to the record at its end.

mod timestamps;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;

use self::timestamps::Timestamps;
use super::encode::{MAX_MESSAGE_BYTES, attribute, text};
use super::{OpenSpan, Record};
use crate::flow::{FlowOutcome, FlowParams, FlowStatus, TraceContext, TraceParent};
use crate::messages::check::CheckResponse;
use crate::messages::common::KeyValue;
use crate::messages::common::any_value::Value;
use crate::messages::trace::Span;
use crate::messages::trace::span::{Link, SpanKind};

const NAME: &str = "Aperture Check";
/// The OTLP flags of a link to a span of another process: `HAS_IS_REMOTE` and `IS_REMOTE`.
const REMOTE_LINK_FLAGS: u32 = 0x300;

/// The span of a flow that has not ended.
pub(crate) struct FlowSpan {
    timestamps: Timestamps,
    /// The trace of the request, to which the span links.
    trace: Option<Box<TraceParent>>,
}

/// The record of a flow at its end, from which a span is made. Times are Unix nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct SpanRecord {
    flow_start: u64,
    workload_start: u64,
    flow_end: u64,
    outcome: FlowOutcome,
    response: CheckResponse,
    /// The trace of the request, to which the span links.
    trace: Option<Box<TraceParent>>,
}

impl OpenSpan for FlowSpan {
    type Record = SpanRecord;

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

    fn end(self, outcome: FlowOutcome, response: CheckResponse) -> SpanRecord {
        let Self { timestamps, trace } = self;
        SpanRecord {
            flow_start: timestamps.flow_start(),
            workload_start: timestamps.workload_start(),
            flow_end: timestamps.now(),
            outcome,
            response,
            trace,
        }
    }
}

impl Record for SpanRecord {
    fn cached_bytes(&self) -> usize {
        self.response
            .cache_lookup_response
            .as_ref()
            .map_or(0, |lookup| {
                let result = lookup.result_cache_response.iter();
                result
                    .chain(
                        lookup
                            .global_cache_responses
                            .iter()
                            .flat_map(|entry| &entry.value),
                    )
                    .map(|key| key.value.len())
                    .sum()
            })
    }

    fn into_span(mut self, trace_id: Vec<u8>, span_id: Vec<u8>) -> Span {
        if self.cached_bytes() > MAX_MESSAGE_BYTES / 2 {
            // The Agent reads only the outcome of a lookup from a span, so the values can go.
            if let Some(lookup) = &mut self.response.cache_lookup_response {
                let result = lookup.result_cache_response.iter_mut();
                let global = lookup.global_cache_responses.iter_mut();
                for key in result.chain(global.flat_map(|entry| &mut entry.value)) {
                    key.value = bytes::Bytes::new();
                }
            }
        }
        let status = self.outcome.status;
        let mut attributes = vec![
            text("aperture.source", "sdk"),
            text("aperture.flow.status", status.as_str()),
            text(
                "aperture.check_response",
                STANDARD.encode(self.response.encode_to_vec()),
            ),
            // The Agent reads the milliseconds, its conformance tool the nanoseconds.
            int("aperture.flow_start_timestamp", self.flow_start),
            int("aperture.flow_start_timestamp_ms", millis(self.flow_start)),
            int("aperture.workload_start_timestamp", self.workload_start),
            int(
                "aperture.workload_start_timestamp_ms",
                millis(self.workload_start),
            ),
            int("aperture.flow_end_timestamp", self.flow_end),
            int("aperture.flow_end_timestamp_ms", millis(self.flow_end)),
        ];
        if let Some(code) = self.outcome.http_status {
            // The Agent treats a code below 400 as success, regardless of the flow status. With the
            // code, a flow that failed after its response head was sent would count as successful.
            if status != FlowStatus::Error || code.as_u16() >= 400 {
                attributes.push(text("http.status_code", code.as_str()));
            }
        }
        Span {
            trace_id,
            span_id,
            name: NAME.to_owned(),
            kind: SpanKind::Internal as i32,
            start_time_unix_nano: self.flow_start,
            end_time_unix_nano: self.flow_end,
            attributes,
            // A link and not a parent: the span is about the flow, for the Agent, and not part of
            // the application's trace.
            links: self.trace.map(|trace| link(*trace)).into_iter().collect(),
            ..Span::default()
        }
    }
}

fn link(trace: TraceParent) -> Link {
    Link {
        trace_id: trace.trace_id.to_vec(),
        span_id: trace.span_id.to_vec(),
        trace_state: trace.state,
        flags: u32::from(trace.flags) | REMOTE_LINK_FLAGS,
        ..Link::default()
    }
}

const fn millis(nanos: u64) -> u64 {
    nanos / 1_000_000
}

fn int(key: &str, value: u64) -> KeyValue {
    attribute(
        key,
        Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)),
    )
}
