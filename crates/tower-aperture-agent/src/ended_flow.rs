//! An ended flow, read from the attributes of its span.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use prost_types::Timestamp;

use super::json::NamedMessage;
use super::limits::MAX_DECISION_ELEMENTS;
use super::{elements, json};
use tower_aperture::pb::check::check_response::DecisionType;
use tower_aperture::pb::check::limiter_decision::Details;
use tower_aperture::pb::check::{CheckResponse, LimiterDecision};
use tower_aperture::pb::common::KeyValue;
use tower_aperture::pb::common::any_value::Value;
use tower_aperture::pb::trace::Span;

const SPAN_SOURCES: [&str; 3] = ["sdk", "envoy", "lua"];
const NANOS_PER_MILLI: i128 = 1_000_000;

/// An ended flow, as its span describes it.
pub(super) struct EndedFlow<'a> {
    pub(super) check: CheckResponse,
    /// The status of the flow; an HTTP status below 400 makes it `OK`.
    pub(super) status: &'a str,
    /// Empty when it is unknown.
    pub(super) http_status: &'a str,
    /// Milliseconds.
    pub(super) workload_duration: Option<f64>,
    flow_duration: Option<f64>,
    attributes: &'a [KeyValue],
}

/// Returns the workload that a scheduler assigned to the flow.
pub(super) fn workload_of(decision: &LimiterDecision) -> Option<&str> {
    match decision.details.as_ref()? {
        Details::LoadSchedulerInfo(info) => Some(&info.workload_index),
        Details::QuotaSchedulerInfo(info) => Some(&info.workload_index),
        Details::ConcurrencySchedulerInfo(info) => Some(&info.workload_index),
        _ => None,
    }
}

impl<'a> EndedFlow<'a> {
    /// Reads the attributes of a span. `None` if the span is not about a flow.
    pub(super) fn of(span: &'a Span) -> Option<Self> {
        let attributes = &span.attributes[..];
        let source = text(attributes, "aperture.source")?;
        if !SPAN_SOURCES.contains(&source) {
            return None;
        }
        let check = decode(text(attributes, "aperture.check_response")?);
        let instant = |name| instant(attributes, name);
        let end = instant("flow_end");
        let since = |start: Option<i128>| Some(((end? - start?) / NANOS_PER_MILLI) as f64);
        let http_status = text(attributes, "http.status_code").unwrap_or_default();
        let status = match text(attributes, "aperture.flow.status") {
            _ if http_status.starts_with(['1', '2', '3']) => "OK",
            None | Some("") => "Error",
            Some(status) => status,
        };
        Some(Self {
            status,
            http_status,
            workload_duration: since(instant("workload_start")),
            flow_duration: since(instant("flow_start")),
            check,
            attributes,
        })
    }

    pub(super) fn accepted(&self) -> bool {
        self.check.decision_type == DecisionType::Accepted as i32
    }

    /// Returns the value of a numeric attribute. Values derived from the span take precedence over
    /// its own attributes.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        let value = match key {
            "workload_duration_ms" => self.workload_duration,
            "flow_duration_ms" => self.flow_duration,
            "aperture_processing_duration_ms" => {
                let end = nanos(self.check.end.as_ref());
                Some(((end - nanos(self.check.start.as_ref())) / NANOS_PER_MILLI) as f64)
            }
            "response_received" | "aperture.flow.status" => None,
            key => match attribute(self.attributes, key)? {
                Value::DoubleValue(value) => Some(*value),
                Value::IntValue(value) => Some(*value as f64),
                Value::StringValue(text) => text.parse().ok(),
                _ => None,
            },
        };
        // A value that is not finite would make the sum useless for good.
        value.filter(|value| value.is_finite())
    }
}

/// Decodes the decision of a span. A malformed or too large one becomes empty, because the span
/// itself still counts.
fn decode(text: &str) -> CheckResponse {
    let check = |elements| {
        let checked = elements::check_count(elements, MAX_DECISION_ELEMENTS);
        checked.map_err(|status| status.message().to_owned())
    };
    let decoded = if text.starts_with('{') {
        check(elements::count_json(text.as_bytes()))
            .and_then(|_| json::decode(text.as_bytes()).map_err(|error| error.to_string()))
    } else {
        let bytes = BASE64_STANDARD.decode(text);
        bytes.map_err(|error| error.to_string()).and_then(|bytes| {
            check(elements::count(CheckResponse::NAME, &bytes))?;
            CheckResponse::decode(&bytes[..]).map_err(|error| error.to_string())
        })
    };
    decoded.unwrap_or_else(|error| {
        log_event!(debug, "a span's check response is malformed: {error}");
        CheckResponse::default()
    })
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.as_ref()?.value.as_ref()
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match attribute(attributes, key)? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Returns a timestamp in nanoseconds, from the attribute in milliseconds if there is one.
fn instant(attributes: &[KeyValue], name: &str) -> Option<i128> {
    let timestamp = |unit: &str| {
        let found = attributes.iter().find(|attribute| {
            let rest = attribute.key.strip_prefix("aperture.");
            let rest = rest.and_then(|rest| rest.strip_prefix(name));
            rest.and_then(|rest| rest.strip_prefix("_timestamp")) == Some(unit)
        })?;
        match found.value.as_ref()?.value.as_ref()? {
            Value::IntValue(value) => Some(i128::from(*value)),
            _ => None,
        }
    };
    timestamp("_ms")
        .map(|millis| millis * NANOS_PER_MILLI)
        .or_else(|| timestamp(""))
}

/// Returns nanoseconds since 1970. An absent time means 1970.
fn nanos(time: Option<&Timestamp>) -> i128 {
    time.map_or(0, |time| {
        i128::from(time.seconds) * 1000 * NANOS_PER_MILLI + i128::from(time.nanos)
    })
}
