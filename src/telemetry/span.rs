//! Makes OTLP spans of the records of flows.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::iter::Peekable;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;

use crate::flow::{FlowOutcome, FlowStatus, TraceParent};
use crate::pb::check::CheckResponse;
use crate::pb::common::any_value::Value;
use crate::pb::common::{AnyValue, InstrumentationScope, KeyValue};
use crate::pb::resource::Resource;
use crate::pb::trace::span::{Link, SpanKind};
use crate::pb::trace::{ResourceSpans, ScopeSpans, Span};
use crate::pb::trace_collector::ExportTraceServiceRequest;

const NAME: &str = "Aperture Check";
const LIBRARY: &str = "tower-aperture";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The most bytes of spans in one message, well below the 4 MiB that servers commonly accept.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// The OTLP flags of a link to a span of another process: `HAS_IS_REMOTE` and `IS_REMOTE`.
const REMOTE_LINK_FLAGS: u32 = 0x300;

/// The record of a flow at its end, from which a span is made. Times are Unix nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct SpanRecord {
    pub(crate) flow_start: u64,
    pub(crate) workload_start: u64,
    pub(crate) flow_end: u64,
    pub(crate) outcome: FlowOutcome,
    pub(crate) response: CheckResponse,
    /// The trace of the request, to which the span links.
    pub(crate) trace: Option<Box<TraceParent>>,
}

/// One message to the collector.
pub(crate) struct SpanChunk {
    pub(crate) request: ExportTraceServiceRequest,
    pub(crate) spans: usize,
    /// The number of spans that are left out because they exceed the size of a message.
    pub(crate) too_large: usize,
}

/// Makes spans of the records until the message is full or no record is left.
pub(crate) fn encode(records: &mut Peekable<impl Iterator<Item = SpanRecord>>) -> SpanChunk {
    let ids = SpanIds::new();
    let (mut spans, mut bytes, mut too_large) = (Vec::new(), 0, 0);
    while bytes < MAX_MESSAGE_BYTES {
        let Some(record) = records.next() else { break };
        let span = record.into_span(&ids);
        let size = span.encoded_len();
        if size > MAX_MESSAGE_BYTES {
            too_large += 1;
            continue;
        }
        bytes += size;
        spans.push(span);
    }
    SpanChunk {
        spans: spans.len(),
        request: ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource {
                    attributes: vec![
                        text("service.name", LIBRARY),
                        text("service.version", VERSION),
                    ],
                    dropped_attributes_count: 0,
                }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(InstrumentationScope {
                        name: LIBRARY.to_owned(),
                        version: VERSION.to_owned(),
                        ..InstrumentationScope::default()
                    }),
                    spans,
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        },
        too_large,
    }
}

impl SpanRecord {
    /// Returns the bytes of cached values, which are by far the largest part of a response with any.
    pub(super) fn cached_bytes(&self) -> usize {
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

    fn into_span(mut self, ids: &SpanIds) -> Span {
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
        let (trace_id, span_id) = ids.next();
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

    #[cfg(test)]
    pub(super) fn at(flow_start: u64) -> Self {
        Self {
            flow_start,
            workload_start: flow_start,
            flow_end: flow_start,
            outcome: FlowOutcome::default(),
            response: CheckResponse::default(),
            trace: None,
        }
    }

    #[cfg(test)]
    pub(super) fn with_cached(mut self, bytes: usize) -> Self {
        use crate::pb::check::{CacheLookupResponse, KeyLookupResponse};

        self.response.cache_lookup_response = Some(CacheLookupResponse {
            result_cache_response: Some(KeyLookupResponse {
                value: vec![7; bytes].into(),
                ..KeyLookupResponse::default()
            }),
            ..CacheLookupResponse::default()
        });
        self
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

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn int(key: &str, value: u64) -> KeyValue {
    attribute(
        key,
        Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)),
    )
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

/// Generates distinct trace and span ids, seeded like the hash maps of the standard library. They
/// need not be hard to guess.
struct SpanIds {
    state: RandomState,
    next: Cell<u64>,
}

impl SpanIds {
    fn new() -> Self {
        Self {
            state: RandomState::new(),
            next: Cell::new(0),
        }
    }

    fn next(&self) -> (Vec<u8>, Vec<u8>) {
        let trace = [self.draw(), self.draw()].concat();
        (trace, self.draw().to_vec())
    }

    /// Returns a new id, which is not zero because zero is not a valid id.
    fn draw(&self) -> [u8; 8] {
        let at = self.next.replace(self.next.get() + 1);
        self.state.hash_one(at).max(1).to_be_bytes()
    }
}
