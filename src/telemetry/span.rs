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

/// Bytes of spans in one message, well below the 4 MiB that servers commonly take.
const MAX_MESSAGE: usize = 1024 * 1024;

/// Flags of OTLP: it is known whether the span linked to is somebody else's, and it is.
const REMOTE: u32 = 0x300;

/// What a flow leaves behind when it ends; times are Unix nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct SpanRecord {
    pub(crate) flow_start: u64,
    pub(crate) workload_start: u64,
    pub(crate) flow_end: u64,
    pub(crate) outcome: FlowOutcome,
    pub(crate) response: CheckResponse,
    /// The trace of the request.
    pub(crate) trace: Option<Box<TraceParent>>,
}

/// One message to the collector.
pub(crate) struct Chunk {
    pub(crate) request: ExportTraceServiceRequest,
    pub(crate) spans: usize,
    /// Spans that would not fit any message.
    pub(crate) too_large: usize,
}

/// Makes spans until a message is full or no record is left.
pub(crate) fn encode(records: &mut Peekable<impl Iterator<Item = SpanRecord>>) -> Chunk {
    let ids = Ids::new();
    let (mut spans, mut bytes, mut too_large) = (Vec::new(), 0, 0);
    while bytes < MAX_MESSAGE {
        let Some(record) = records.next() else { break };
        let span = record.into_span(&ids);
        let size = span.encoded_len();
        if size > MAX_MESSAGE {
            too_large += 1;
            continue;
        }
        bytes += size;
        spans.push(span);
    }
    Chunk {
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
    /// Bytes of cached values, by far the largest part of an answer that has any.
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

    fn into_span(mut self, ids: &Ids) -> Span {
        if self.cached_bytes() > MAX_MESSAGE / 2 {
            // The Agent reads only the outcome of a lookup from a span.
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
            // The Agent reads milliseconds, its conformance tool nanoseconds.
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
            // The Agent takes a code below 400 for success, whatever the status says. A flow that
            // failed after its head had gone out would count as fine.
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
            // No child: it is a span of the flow, measured by and for the Agent.
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
        flags: u32::from(trace.flags) | REMOTE,
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

/// Ids that differ, seeded by what the standard library draws for its hash maps. They need not be
/// hard to guess.
struct Ids {
    state: RandomState,
    next: Cell<u64>,
}

impl Ids {
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

    /// Zero is no id.
    fn draw(&self) -> [u8; 8] {
        let at = self.next.replace(self.next.get() + 1);
        self.state.hash_one(at).max(1).to_be_bytes()
    }
}
