//! OTLP: what spans tell of flows that ended.
//!
//! Attributes of a span are all that counts. A span that makes no sense is counted and dropped, or
//! kept as far as it goes; an export never fails because of one.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use prost_types::Timestamp;
use tonic::{Request, Response, Status};

use super::json::Named;
use super::{Agent, MAX_DECISION_ELEMENTS, elements, json};
use crate::engine::SlotRef;
use crate::pb::check::check_response::DecisionType;
use crate::pb::check::limiter_decision::Details;
use crate::pb::check::{CheckResponse, LimiterDecision};
use crate::pb::common::KeyValue;
use crate::pb::common::any_value::Value;
use crate::pb::trace::Span;
use crate::pb::trace_collector::trace_service_server::TraceService;
use crate::pb::trace_collector::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};

const SOURCES: [&str; 3] = ["sdk", "envoy", "lua"];
const MILLI: i128 = 1_000_000;
/// Spans that are looked at in one go.
const A_GO: usize = 64;

/// The service.
pub(super) struct Traces(pub(super) Agent);

#[tonic::async_trait]
impl TraceService for Traces {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        self.0.inner.engine.catch_up();
        for (at, span) in scopes.flat_map(|scope| scope.spans).enumerate() {
            self.0.ended(&span);
            // An export may be large, and flows wait for this thread.
            if at % A_GO == A_GO - 1 {
                tokio::task::yield_now().await;
            }
        }
        Ok(Response::new(ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess::default()),
        }))
    }
}

/// A flow that ended, as its span tells it.
pub(super) struct Ended<'a> {
    pub(super) check: CheckResponse,
    /// Rewritten by the HTTP status.
    pub(super) status: &'a str,
    /// Empty when it is not known.
    pub(super) http_status: &'a str,
    /// Milliseconds.
    pub(super) workload_duration: Option<f64>,
    flow_duration: Option<f64>,
    attributes: &'a [KeyValue],
}

impl Agent {
    fn ended(&self, span: &Span) {
        let metrics = &self.inner.metrics;
        let Some(ended) = Ended::of(span) else {
            metrics.spans.discarded.inc();
            return;
        };
        metrics.spans.taken.inc();
        self.give_back(&ended.check);
        let names = metrics.names();
        for decision in &ended.check.limiter_decisions {
            metrics.spans.limiter(&names, &ended, decision);
            if ended.accepted()
                && let (Some(workload), Some(took)) =
                    (workload_of(decision), ended.workload_duration)
            {
                let (policy, component) = (&decision.policy_name, &decision.component_id);
                let engine = &self.inner.engine;
                engine.observe_workload(policy, component, workload, took);
            }
        }
        for classifier in &ended.check.classifier_infos {
            metrics.spans.classifier(&names, classifier);
        }
        for info in &ended.check.flux_meter_infos {
            let Some(meter) = self.inner.engine.flux_meter(&info.flux_meter_name) else {
                continue;
            };
            let value = ended.number(meter.attribute_key());
            metrics.spans.flux_meter(&names, &ended, &meter, value);
            if let Some(value) = value {
                meter.observe(value, ended.status == "OK");
            }
        }
    }

    /// The slots of a flow that nobody promised to end. A second span changes nothing.
    fn give_back(&self, check: &CheckResponse) {
        if check.expect_end {
            return;
        }
        let slots: Vec<SlotRef> = check.limiter_decisions.iter().filter_map(slot_of).collect();
        if !slots.is_empty() {
            self.inner.engine.flow_end(&slots, None);
        }
    }
}

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

/// The workload that a flow was to a scheduler.
pub(super) fn workload_of(decision: &LimiterDecision) -> Option<&str> {
    match decision.details.as_ref()? {
        Details::LoadSchedulerInfo(info) => Some(&info.workload_index),
        Details::QuotaSchedulerInfo(info) => Some(&info.workload_index),
        Details::ConcurrencySchedulerInfo(info) => Some(&info.workload_index),
        _ => None,
    }
}

impl<'a> Ended<'a> {
    /// `None` for a span that is not about a flow.
    fn of(span: &'a Span) -> Option<Self> {
        let attributes = &span.attributes[..];
        let source = text(attributes, "aperture.source")?;
        if !SOURCES.contains(&source) {
            return None;
        }
        let check = decode(text(attributes, "aperture.check_response")?);
        let instant = |name| instant(attributes, name);
        let end = instant("flow_end");
        let since = |start: Option<i128>| Some(((end? - start?) / MILLI) as f64);
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

    /// The value of an attribute, where it is a number. Those made from the span come before its
    /// own.
    fn number(&self, key: &str) -> Option<f64> {
        let value = match key {
            "workload_duration_ms" => self.workload_duration,
            "flow_duration_ms" => self.flow_duration,
            "aperture_processing_duration_ms" => {
                let end = nanos(self.check.end.as_ref());
                Some(((end - nanos(self.check.start.as_ref())) / MILLI) as f64)
            }
            "response_received" | "aperture.flow.status" => None,
            key => match attribute(self.attributes, key)? {
                Value::DoubleValue(value) => Some(*value),
                Value::IntValue(value) => Some(*value as f64),
                Value::StringValue(text) => text.parse().ok(),
                _ => None,
            },
        };
        // One that is not finite would spoil the sum for good.
        value.filter(|value| value.is_finite())
    }
}

/// Decodes a span's decision, the empty one where the text is malformed or holds too much: the
/// span itself is kept.
fn decode(text: &str) -> CheckResponse {
    let bounded = |elements| {
        let bounded = elements::bounded(elements, MAX_DECISION_ELEMENTS);
        bounded.map_err(|status| status.message().to_owned())
    };
    let decoded = if text.starts_with('{') {
        bounded(elements::count_json(text.as_bytes()))
            .and_then(|_| json::decode(text.as_bytes()).map_err(|error| error.to_string()))
    } else {
        let bytes = BASE64_STANDARD.decode(text);
        bytes.map_err(|error| error.to_string()).and_then(|bytes| {
            bounded(elements::count(CheckResponse::NAME, &bytes))?;
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

/// In nanoseconds, from milliseconds where these are told.
fn instant(attributes: &[KeyValue], name: &str) -> Option<i128> {
    let told = |unit: &str| {
        let found = attributes.iter().find(|one| {
            let rest = one.key.strip_prefix("aperture.");
            let rest = rest.and_then(|rest| rest.strip_prefix(name));
            rest.and_then(|rest| rest.strip_prefix("_timestamp")) == Some(unit)
        })?;
        match found.value.as_ref()?.value.as_ref()? {
            Value::IntValue(value) => Some(i128::from(*value)),
            _ => None,
        }
    };
    told("_ms")
        .map(|millis| millis * MILLI)
        .or_else(|| told(""))
}

/// Since 1970, which is what an absent time means.
fn nanos(time: Option<&Timestamp>) -> i128 {
    time.map_or(0, |time| {
        i128::from(time.seconds) * 1000 * MILLI + i128::from(time.nanos)
    })
}
