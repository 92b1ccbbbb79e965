//! Metrics from the spans of ended flows.

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::bounded_family::{BoundedFamily, MAX_LABEL_BYTES, SeriesClass, SeriesLabels};
use super::labels::{
    LimiterLabels, SamplerLabels, WorkloadLabels, WorkloadRef, WorkloadRequestLabels,
};
use crate::ended_flow::{EndedFlow, workload_of};
use aperture_engine::engine::{FluxMeter, InForceNames};
use tower_aperture::pb::check::check_response::DecisionType;
use tower_aperture::pb::check::limiter_decision::Details;
use tower_aperture::pb::check::{ClassifierInfo, LimiterDecision};

/// Metrics from spans.
#[derive(Debug)]
pub(crate) struct SpanSeries {
    pub(crate) received: Counter,
    pub(crate) discarded: Counter,
    workload_latency: BoundedFamily<WorkloadLabels, Histogram>,
    workload_requests: BoundedFamily<WorkloadRequestLabels, Counter>,
    rate_limiters: BoundedFamily<LimiterLabels, Counter>,
    concurrency_limiters: BoundedFamily<LimiterLabels, Counter>,
    samplers: BoundedFamily<SamplerLabels, Counter>,
    classifiers: BoundedFamily<ClassifierLabels, Counter>,
    flux_meters: BoundedFamily<FluxMeterLabels, Histogram>,
    invalid: BoundedFamily<FluxMeterLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassifierLabels {
    policy_name: String,
    policy_hash: String,
    classifier_index: i64,
}

impl SeriesLabels for ClassifierLabels {
    fn class(&self, names: &InForceNames) -> SeriesClass {
        match names.classifier(&self.policy_name, &self.policy_hash, self.classifier_index) {
            true => SeriesClass::Reserved,
            false => SeriesClass::Gone,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FluxMeterLabels {
    flux_meter_name: String,
    policy_name: String,
    decision_type: &'static str,
    http_status_code: String,
    flow_status: String,
}

/// Callers choose the statuses freely.
impl SeriesLabels for FluxMeterLabels {
    fn class(&self, names: &InForceNames) -> SeriesClass {
        if !names.flux_meter(&self.policy_name, &self.flux_meter_name) {
            return SeriesClass::Gone;
        }
        let code = &*self.http_status_code;
        let known_code = code.is_empty()
            || StatusCode::from_bytes(code.as_bytes())
                .is_ok_and(|code| code.canonical_reason().is_some());
        match known_code && ["OK", "Error", "Unset"].contains(&&*self.flow_status) {
            true => SeriesClass::Reserved,
            false => SeriesClass::Shared,
        }
    }
}

/// Returns true if all these labels are within the length limit.
fn fit_length_limit(labels: &[&str]) -> bool {
    labels.iter().all(|label| label.len() <= MAX_LABEL_BYTES)
}

/// Observes in the series with these labels, which are cloned if the series is new.
fn observe<K, M>(
    series: &BoundedFamily<K, M>,
    names: &InForceNames,
    labels: &K,
    make_metric: impl FnOnce() -> M,
    record: impl FnOnce(&M),
) where
    K: SeriesLabels + Clone,
{
    series.observe(names, labels, || Some(labels.clone()), make_metric, record);
}

impl SpanSeries {
    pub(super) fn new(registry: &mut Registry, left_out: &Counter) -> Self {
        let metrics = Self {
            received: Counter::default(),
            discarded: Counter::default(),
            workload_latency: BoundedFamily::new(left_out),
            workload_requests: BoundedFamily::new(left_out),
            rate_limiters: BoundedFamily::new(left_out),
            concurrency_limiters: BoundedFamily::new(left_out),
            samplers: BoundedFamily::new(left_out),
            classifiers: BoundedFamily::new(left_out),
            flux_meters: BoundedFamily::new(left_out),
            invalid: BoundedFamily::new(left_out),
        };
        registry.register(
            "tower_aperture_agent_spans",
            "Spans of flows",
            metrics.received.clone(),
        );
        registry.register(
            "tower_aperture_agent_spans_discarded",
            "Spans that are not about flows",
            metrics.discarded.clone(),
        );
        registry.register(
            "workload_latency_ms",
            "Duration of the work of accepted flows",
            metrics.workload_latency.clone(),
        );
        registry.register(
            "workload_requests",
            "Flows of a workload",
            metrics.workload_requests.clone(),
        );
        registry.register(
            "rate_limiter_counter",
            "Decisions of rate limiters",
            metrics.rate_limiters.clone(),
        );
        registry.register(
            "concurrency_limiter_counter",
            "Decisions of concurrency limiters",
            metrics.concurrency_limiters.clone(),
        );
        registry.register(
            "sampler_counter",
            "Decisions of samplers",
            metrics.samplers.clone(),
        );
        registry.register(
            "classifier_counter",
            "Classifiers that matched",
            metrics.classifiers.clone(),
        );
        registry.register(
            "flux_meter",
            "Values of flux meters",
            metrics.flux_meters.clone(),
        );
        registry.register(
            "invalid_flux_meter",
            "Flows without a value for a flux meter",
            metrics.invalid.clone(),
        );
        metrics
    }

    /// Removes the series of policies that are not in force.
    pub(super) fn retain(&self, names: &InForceNames) {
        self.workload_latency.retain(names);
        self.workload_requests.retain(names);
        self.rate_limiters.retain(names);
        self.concurrency_limiters.retain(names);
        self.samplers.retain(names);
        self.classifiers.retain(names);
        self.flux_meters.retain(names);
        self.invalid.retain(names);
    }

    /// Counts a decision that a span carries. Callers can invent decisions, so it has a series only
    /// if a policy in force has the component.
    pub(crate) fn limiter(
        &self,
        names: &InForceNames,
        flow: &EndedFlow<'_>,
        decision: &LimiterDecision,
    ) {
        let LimiterDecision {
            policy_name,
            policy_hash,
            component_id,
            dropped,
            ..
        } = decision;
        let Some(component) = names.component(policy_name, component_id, policy_hash) else {
            self.rate_limiters.count_left_out();
            return;
        };
        let decision_type = decision_type(flow);
        let count = |counter: &Counter| {
            counter.inc();
        };
        let limiter = || LimiterLabels::new(component, decision_type, *dropped);
        match &decision.details {
            Some(Details::RateLimiterInfo(_)) => {
                let series = &self.rate_limiters;
                observe(series, names, &limiter(), Counter::default, count);
            }
            Some(Details::ConcurrencyLimiterInfo(_)) => {
                let series = &self.concurrency_limiters;
                observe(series, names, &limiter(), Counter::default, count);
            }
            Some(Details::SamplerInfo(_)) => {
                let labels = SamplerLabels::new(component, decision_type, *dropped);
                observe(&self.samplers, names, &labels, Counter::default, count);
            }
            _ => {}
        }
        let Some(workload) = workload_of(decision) else {
            return;
        };
        let workload = WorkloadRef::new(component, workload);
        let requests = workload.requests(decision_type, *dropped);
        let series = &self.workload_requests;
        observe(series, names, &requests, Counter::default, count);
        if let Some(duration) = flow.workload_duration.filter(|_| flow.accepted()) {
            let make_labels = || Some(workload.to_labels());
            let make_metric = || Histogram::new([]);
            let series = &self.workload_latency;
            series.observe(names, &workload, make_labels, make_metric, |latency| {
                latency.observe(duration);
            });
        }
    }

    /// Counts a match of a classifier.
    pub(crate) fn classifier(&self, names: &InForceNames, classifier: &ClassifierInfo) {
        if !fit_length_limit(&[&classifier.policy_name, &classifier.policy_hash]) {
            self.classifiers.count_left_out();
            return;
        }
        let labels = ClassifierLabels {
            policy_name: classifier.policy_name.clone(),
            policy_hash: classifier.policy_hash.clone(),
            classifier_index: classifier.classifier_index,
        };
        let series = &self.classifiers;
        observe(series, names, &labels, Counter::default, |counter| {
            counter.inc();
        });
    }

    /// Records the value of a flux meter; `None` counts as invalid.
    pub(crate) fn flux_meter(
        &self,
        names: &InForceNames,
        flow: &EndedFlow<'_>,
        meter: &FluxMeter,
        value: Option<f64>,
    ) {
        if !fit_length_limit(&[flow.http_status, flow.status]) {
            self.flux_meters.count_left_out();
            return;
        }
        let labels = FluxMeterLabels {
            flux_meter_name: meter.name().to_string(),
            policy_name: meter.policy_name().to_owned(),
            decision_type: decision_type(flow),
            http_status_code: flow.http_status.to_owned(),
            flow_status: flow.status.to_owned(),
        };
        match value {
            Some(value) => {
                let make_metric = || Histogram::new(meter.bounds().iter().copied());
                observe(&self.flux_meters, names, &labels, make_metric, |meter| {
                    meter.observe(value);
                });
            }
            None => observe(&self.invalid, names, &labels, Counter::default, |counter| {
                counter.inc();
            }),
        }
    }
}

fn decision_type(flow: &EndedFlow<'_>) -> &'static str {
    let decision = DecisionType::try_from(flow.check.decision_type);
    decision.map_or("", |decision| decision.as_str_name())
}
