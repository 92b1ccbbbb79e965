//! The spans that are written field by field are those that `prost` writes.

use prost::Message;

use super::*;
use crate::messages::generated::opentelemetry::proto::common::v1::any_value::Value;
use crate::messages::generated::opentelemetry::proto::common::v1::{
    AnyValue, InstrumentationScope, KeyValue,
};
use crate::messages::generated::opentelemetry::proto::resource::v1::Resource;
use crate::messages::generated::opentelemetry::proto::trace::v1::span::Link;
use crate::messages::generated::opentelemetry::proto::trace::v1::{
    ResourceSpans, ScopeSpans, Span,
};
use crate::messages::trace_collector::ExportTraceServiceRequest;
use crate::protobuf::GRPC_PREFIX_LEN;
use crate::telemetry::{SpanBuffer, SpanPush};

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn int(key: &str, value: u64) -> KeyValue {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    attribute(key, Value::IntValue(value))
}

/// The span of a record as a message, without ids.
fn message(record: &SpanRecord<'_>) -> Span {
    let mut attributes = vec![
        text("aperture.source", "sdk"),
        text("aperture.flow.status", record.outcome.status.as_str()),
        text("aperture.check_response", &STANDARD.encode(record.response)),
        int("aperture.flow_start_timestamp", record.flow_start),
        int(
            "aperture.flow_start_timestamp_ms",
            record.flow_start / 1_000_000,
        ),
        int("aperture.workload_start_timestamp", record.workload_start),
        int(
            "aperture.workload_start_timestamp_ms",
            record.workload_start / 1_000_000,
        ),
        int("aperture.flow_end_timestamp", record.flow_end),
        int(
            "aperture.flow_end_timestamp_ms",
            record.flow_end / 1_000_000,
        ),
    ];
    let code = record.outcome.http_status;
    attributes.extend(code.map(|code| text("http.status_code", code.as_str())));
    let links = record.trace.iter().map(|trace| Link {
        trace_id: trace.trace_id.to_vec(),
        span_id: trace.span_id.to_vec(),
        trace_state: trace.state.clone(),
        flags: u32::from(trace.flags) | REMOTE_LINK_FLAGS,
        ..Link::default()
    });
    Span {
        name: NAME.to_owned(),
        kind: SpanKind::Internal as i32,
        start_time_unix_nano: record.flow_start,
        end_time_unix_nano: record.flow_end,
        attributes,
        links: links.collect(),
        ..Span::default()
    }
}

/// Passes records with and without their optional parts.
fn with_records<R>(run: impl FnOnce(&[SpanRecord<'_>]) -> R) -> R {
    let response: Vec<u8> = (0..12_000).map(|at| at as u8).collect();
    let trace = |state: &str| TraceParent {
        trace_id: [7; 16],
        span_id: [9; 8],
        flags: 1,
        state: state.to_owned(),
    };
    let code = |code| http::StatusCode::from_u16(code).expect("a code");
    let now = 1_800_000_000_123_456_789;
    let cases = [
        (0, FlowOutcome::new(FlowStatus::Ok), None),
        (1, FlowOutcome::new(FlowStatus::Error), Some(trace(""))),
        (
            2,
            FlowOutcome::new(FlowStatus::Ok).with_http_status(code(200)),
            None,
        ),
        (
            90,
            FlowOutcome::new(FlowStatus::Unset),
            Some(trace("vendor=1")),
        ),
        (
            12_000,
            FlowOutcome::new(FlowStatus::Error).with_http_status(code(503)),
            None,
        ),
    ];
    let records = cases.iter().map(|(len, outcome, trace)| SpanRecord {
        flow_start: now,
        workload_start: now + 5_000_000,
        flow_end: now + 17_000_001,
        outcome: *outcome,
        response: &response[..*len],
        trace: trace.as_ref(),
    });
    run(&records.collect::<Vec<_>>())
}

#[test]
fn a_batch_has_the_bytes_that_prost_writes() {
    let mut buffer = SpanBuffer::default();
    let expected_spans: Vec<Span> = with_records(|records| {
        for record in records {
            assert_ne!(record.push(|span| buffer.push(span)), SpanPush::Refused);
        }
        records.iter().map(message).collect()
    });
    let batch = buffer.take_batch().expect("spans").into_message();
    let sent = batch.slice(GRPC_PREFIX_LEN..);
    let len = u32::try_from(sent.len()).expect("small");
    assert_eq!(batch[0], 0, "not compressed");
    assert_eq!(batch[1..GRPC_PREFIX_LEN], len.to_be_bytes());

    let mut request = ExportTraceServiceRequest::decode(&*sent).expect("a message");
    assert_eq!(request.encode_to_vec(), sent);
    let spans = &mut request.resource_spans[0].scope_spans[0].spans;
    for span in spans {
        assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
        span.trace_id.clear();
        span.span_id.clear();
    }
    let version = env!("CARGO_PKG_VERSION");
    let expected = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![
                    text("service.name", "tower-aperture"),
                    text("service.version", version),
                ],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: "tower-aperture".to_owned(),
                    version: version.to_owned(),
                    ..InstrumentationScope::default()
                }),
                spans: expected_spans,
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    };
    assert_eq!(request, expected);
}
