//! Makes messages to the collector of the records of flows.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::iter::Peekable;

use prost::Message;

use super::Record;
use crate::messages::common::any_value::Value;
use crate::messages::common::{AnyValue, InstrumentationScope, KeyValue};
use crate::messages::resource::Resource;
use crate::messages::trace::{ResourceSpans, ScopeSpans};
use crate::messages::trace_collector::ExportTraceServiceRequest;

const LIBRARY: &str = "tower-aperture";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The most bytes of spans in one message, well below the 4 MiB that servers commonly accept.
pub(super) const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// One message to the collector.
pub(crate) struct SpanChunk {
    pub(crate) request: ExportTraceServiceRequest,
    pub(crate) spans: usize,
    /// The number of spans that are left out because they exceed the size of a message.
    pub(crate) too_large: usize,
}

/// Makes spans of the records until the message is full or no record is left.
pub(crate) fn encode(records: &mut Peekable<impl Iterator<Item = impl Record>>) -> SpanChunk {
    let ids = SpanIds::new();
    let (mut spans, mut bytes, mut too_large) = (Vec::new(), 0, 0);
    while bytes < MAX_MESSAGE_BYTES {
        let Some(record) = records.next() else { break };
        let (trace_id, span_id) = ids.next();
        let span = record.into_span(trace_id, span_id);
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

pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

pub(super) fn attribute(key: &str, value: Value) -> KeyValue {
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
