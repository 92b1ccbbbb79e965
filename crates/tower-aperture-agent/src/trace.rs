//! Receives OTLP spans of ended flows.
//!
//! Only the attributes of a span count. A span that is not about a flow is counted and dropped; a
//! span with invalid parts is used as far as possible. An export never fails because of a span.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use prost_types::Timestamp;
use tonic::{Request, Response, Status};

use super::json::NamedMessage;
use super::{Agent, MAX_DECISION_ELEMENTS, elements, json};
use aperture_engine::engine::SlotRef;
use tower_aperture::pb::check::check_response::DecisionType;
use tower_aperture::pb::check::limiter_decision::Details;
use tower_aperture::pb::check::{CheckResponse, LimiterDecision};
use tower_aperture::pb::common::KeyValue;
use tower_aperture::pb::common::any_value::Value;
use tower_aperture::pb::trace::Span;
use tower_aperture::pb::trace_collector::trace_service_server::TraceService;
use tower_aperture::pb::trace_collector::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};

const SPAN_SOURCES: [&str; 3] = ["sdk", "envoy", "lua"];
const NANOS_PER_MILLI: i128 = 1_000_000;
/// Spans processed before the task yields.
const BATCH_SIZE: usize = 64;

/// Handles the methods of OTLP's `TraceService`.
pub(super) struct SpanReceiver(pub(super) Agent);

#[tonic::async_trait]
impl TraceService for SpanReceiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        self.0.inner.engine.catch_up();
        for (at, span) in scopes.flat_map(|scope| scope.spans).enumerate() {
            self.0.record_span(&span);
            // An export may be large, and waiting flows need this thread.
            if at % BATCH_SIZE == BATCH_SIZE - 1 {
                tokio::task::yield_now().await;
            }
        }
        Ok(Response::new(ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess::default()),
        }))
    }
}

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

impl Agent {
    /// Records a span: returns slots, and feeds metrics, flux meters and load schedulers.
    fn record_span(&self, span: &Span) {
        let metrics = &self.inner.metrics;
        let Some(flow) = EndedFlow::of(span) else {
            metrics.spans.discarded.inc();
            return;
        };
        metrics.spans.received.inc();
        self.return_slots(&flow.check);
        let names = metrics.names();
        for decision in &flow.check.limiter_decisions {
            metrics.spans.limiter(&names, &flow, decision);
            if flow.accepted()
                && let (Some(workload), Some(duration)) =
                    (workload_of(decision), flow.workload_duration)
            {
                let (policy, component) = (&decision.policy_name, &decision.component_id);
                let engine = &self.inner.engine;
                engine.observe_workload(policy, component, workload, duration);
            }
        }
        for classifier in &flow.check.classifier_infos {
            metrics.spans.classifier(&names, classifier);
        }
        for info in &flow.check.flux_meter_infos {
            let Some(meter) = self.inner.engine.flux_meter(&info.flux_meter_name) else {
                continue;
            };
            let value = flow.number(meter.attribute_key());
            metrics.spans.flux_meter(&names, &flow, &meter, value);
            if let Some(value) = value {
                meter.observe(value, flow.status == "OK");
            }
        }
    }

    /// Returns the slots of a flow whose check had `expect_end` off. A second span of the same flow
    /// has no effect.
    fn return_slots(&self, check: &CheckResponse) {
        if check.expect_end {
            return;
        }
        let slots: Vec<SlotRef> = check.limiter_decisions.iter().filter_map(slot_of).collect();
        if !slots.is_empty() {
            self.inner.engine.flow_end(&slots, None);
        }
    }
}

/// Returns the reference to the slot that a decision granted.
fn slot_of(decision: &LimiterDecision) -> Option<SlotRef> {
    let (label, id) = match decision.details.as_ref()? {
        Details::ConcurrencyLimiterInfo(info) => (&info.label, &info.request_id),
        Details::ConcurrencySchedulerInfo(info) => (&info.label, &info.request_id),
        _ => return None,
    };
    (!id.is_empty()).then(|| SlotRef {
        policy_name: decision.policy_name.clone(),
        policy_hash: decision.policy_hash.clone(),
        component_id: decision.component_id.clone(),
        label: label.clone(),
        request_id: id.clone(),
    })
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
    fn of(span: &'a Span) -> Option<Self> {
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
    fn number(&self, key: &str) -> Option<f64> {
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
