//! Receives OTLP spans of ended flows.
//!
//! Only the attributes of a span count. A span that is not about a flow is counted and dropped; a
//! span with invalid parts is used as far as possible. An export never fails because of a span.

use tonic::Status;

use super::Agent;
use super::call::{Call, CallResponse};
use super::ended_flow::{EndedFlow, workload_of};
use aperture_engine::engine::SlotRef;
use tower_aperture::pb::check::limiter_decision::Details;
use tower_aperture::pb::check::{CheckResponse, LimiterDecision};
use tower_aperture::pb::trace::Span;
use tower_aperture::pb::trace_collector::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};

/// Spans processed before the task yields.
const BATCH_SIZE: usize = 64;

pub(super) async fn export(
    agent: Agent,
    call: Call<ExportTraceServiceRequest>,
) -> Result<CallResponse<ExportTraceServiceResponse>, Status> {
    let resources = call.message.resource_spans.into_iter();
    let scopes = resources.flat_map(|resource| resource.scope_spans);
    agent.inner.engine.catch_up();
    for (at, span) in scopes.flat_map(|scope| scope.spans).enumerate() {
        agent.record_span(&span);
        // An export may be large, and waiting flows need this thread.
        if at % BATCH_SIZE == BATCH_SIZE - 1 {
            tokio::task::yield_now().await;
        }
    }
    let partial_success = Some(ExportTracePartialSuccess::default());
    Ok(ExportTraceServiceResponse { partial_success }.into())
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
