//! The series of `/metrics`: their names, number and values.

mod bounds;
mod names;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use tower_aperture::pb::check::{CheckRequest, CheckResponse};
use tower_aperture::pb::common::any_value::Value;
use tower_aperture::pb::common::{AnyValue, KeyValue};
use tower_aperture::pb::trace::{ResourceSpans, ScopeSpans, Span};
use tower_aperture::pb::trace_collector::ExportTraceServiceRequest;
use tower_aperture::pb::trace_collector::trace_service_client::TraceServiceClient;

use crate::support::Served;

/// Returns a check.
pub(crate) fn flow(control_point: &str, labels: &[(&str, &str)]) -> CheckRequest {
    let labels = labels.iter();
    CheckRequest {
        control_point: control_point.to_owned(),
        labels: labels
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        expect_end: true,
        ..CheckRequest::default()
    }
}

/// Returns the series of a metric: their labels and values.
pub(crate) fn series(text: &str, name: &str) -> Vec<(BTreeMap<String, String>, f64)> {
    let lines = text.lines().filter_map(|line| {
        let labels = line.strip_prefix(name)?.strip_prefix('{')?;
        labels.rsplit_once("} ")
    });
    lines
        .map(|(labels, value)| {
            let labels = labels.split("\",").map(|label| {
                let (key, value) = label.split_once("=\"").expect("a label");
                (key.to_owned(), value.trim_end_matches('"').to_owned())
            });
            (labels.collect(), value.parse().expect("a number"))
        })
        .collect()
}

/// Returns the sum of the series of a metric that have these labels.
pub(crate) fn sum(text: &str, name: &str, wanted: &[(&str, &str)]) -> f64 {
    let matching = series(text, name).into_iter().filter(|(labels, _)| {
        wanted
            .iter()
            .all(|(key, value)| labels.get(*key).is_some_and(|known| known == value))
    });
    matching.map(|(_, value)| value).sum()
}

/// Returns the span of an ended flow, as an SDK exports it.
pub(crate) fn span(check: &CheckResponse, attributes: &[(&str, &str)]) -> Span {
    let text = |key: &str, value: String| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value)),
        }),
    };
    let time = |key: &str, value: i64| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Value::IntValue(value)),
        }),
    };
    let mut all = vec![
        text("aperture.source", "sdk".to_owned()),
        text(
            "aperture.check_response",
            BASE64_STANDARD.encode(check.encode_to_vec()),
        ),
        time("aperture.flow_start_timestamp", 1_000_000_000),
        time("aperture.workload_start_timestamp", 1_000_000_000),
        time("aperture.flow_end_timestamp", 1_020_000_000),
    ];
    let attributes = attributes.iter();
    all.extend(attributes.map(|(key, value)| text(key, (*value).to_owned())));
    Span {
        attributes: all,
        ..Span::default()
    }
}

/// Exports spans to the agent.
pub(crate) async fn export(served: &Served, spans: Vec<Span>) {
    let mut traces = TraceServiceClient::new(served.channel().await);
    let scope_spans = vec![ScopeSpans {
        spans,
        ..ScopeSpans::default()
    }];
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans,
            ..ResourceSpans::default()
        }],
    };
    traces
        .export(request)
        .await
        .expect("the agent accepts the spans");
}
