//! What spans say of flows that ended.

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::LONGEST_LABEL;
use super::labels::{Limiter, Sampler, Workload, WorkloadOf, WorkloadRequests};
use super::series::{Labels, Series, Standing};
use crate::agent::trace::{Ended, workload_of};
use crate::engine::{FluxMeter, InForceNames};
use crate::pb::check::check_response::DecisionType;
use crate::pb::check::limiter_decision::Details;
use crate::pb::check::{ClassifierInfo, LimiterDecision};

#[derive(Debug)]
pub(in crate::agent) struct SpanSeries {
    pub(in crate::agent) taken: Counter,
    pub(in crate::agent) discarded: Counter,
    workload_latency: Series<Workload, Histogram>,
    workload_requests: Series<WorkloadRequests, Counter>,
    rate_limiters: Series<Limiter, Counter>,
    concurrency_limiters: Series<Limiter, Counter>,
    samplers: Series<Sampler, Counter>,
    classifiers: Series<Classifier, Counter>,
    flux_meters: Series<Meter, Histogram>,
    invalid: Series<Meter, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Classifier {
    policy_name: String,
    policy_hash: String,
    classifier_index: i64,
}

impl Labels for Classifier {
    fn standing(&self, names: &InForceNames) -> Standing {
        match names.classifier(&self.policy_name, &self.policy_hash, self.classifier_index) {
            true => Standing::Reserved,
            false => Standing::Gone,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Meter {
    flux_meter_name: String,
    policy_name: String,
    decision_type: &'static str,
    http_status_code: String,
    flow_status: String,
}

/// Any caller can make up the statuses.
impl Labels for Meter {
    fn standing(&self, names: &InForceNames) -> Standing {
        if !names.flux_meter(&self.policy_name, &self.flux_meter_name) {
            return Standing::Gone;
        }
        let code = &*self.http_status_code;
        let usual = code.is_empty()
            || StatusCode::from_bytes(code.as_bytes())
                .is_ok_and(|code| code.canonical_reason().is_some());
        match usual && ["OK", "Error", "Unset"].contains(&&*self.flow_status) {
            true => Standing::Reserved,
            false => Standing::Shared,
        }
    }
}

/// All that a caller chose is short.
fn short(labels: &[&str]) -> bool {
    labels.iter().all(|label| label.len() <= LONGEST_LABEL)
}

/// Observes in the series of labels that were made for it.
fn observe<K, M>(
    series: &Series<K, M>,
    names: &InForceNames,
    labels: &K,
    make: impl FnOnce() -> M,
    act: impl FnOnce(&M),
) where
    K: Labels + Clone,
{
    series.with(names, labels, || Some(labels.clone()), make, act);
}

impl SpanSeries {
    pub(super) fn new(registry: &mut Registry, left_out: &Counter) -> Self {
        let own = Self {
            taken: Counter::default(),
            discarded: Counter::default(),
            workload_latency: Series::new(left_out),
            workload_requests: Series::new(left_out),
            rate_limiters: Series::new(left_out),
            concurrency_limiters: Series::new(left_out),
            samplers: Series::new(left_out),
            classifiers: Series::new(left_out),
            flux_meters: Series::new(left_out),
            invalid: Series::new(left_out),
        };
        registry.register(
            "tower_aperture_agent_spans",
            "Spans of flows",
            own.taken.clone(),
        );
        registry.register(
            "tower_aperture_agent_spans_discarded",
            "Spans that are not of flows",
            own.discarded.clone(),
        );
        registry.register(
            "workload_latency_ms",
            "How long the work of accepted flows took",
            own.workload_latency.clone(),
        );
        registry.register(
            "workload_requests",
            "Flows of a workload",
            own.workload_requests.clone(),
        );
        registry.register(
            "rate_limiter_counter",
            "Decisions of rate limiters",
            own.rate_limiters.clone(),
        );
        registry.register(
            "concurrency_limiter_counter",
            "Decisions of concurrency limiters",
            own.concurrency_limiters.clone(),
        );
        registry.register(
            "sampler_counter",
            "Decisions of samplers",
            own.samplers.clone(),
        );
        registry.register(
            "classifier_counter",
            "Classifiers that matched",
            own.classifiers.clone(),
        );
        registry.register(
            "flux_meter",
            "What flux meters saw",
            own.flux_meters.clone(),
        );
        registry.register(
            "invalid_flux_meter",
            "Flows without a value for a flux meter",
            own.invalid.clone(),
        );
        own
    }

    /// Forgets what is of policies that are gone.
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

    /// Counts a decision that a span tells of. Its caller may have made it up, so it has a series
    /// only where a policy in force has such a component.
    pub(in crate::agent) fn limiter(
        &self,
        names: &InForceNames,
        ended: &Ended<'_>,
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
            self.rate_limiters.leave_out();
            return;
        };
        let decision_type = decision_type(ended);
        let count = |counter: &Counter| {
            counter.inc();
        };
        let limiter = || Limiter::new(component, decision_type, *dropped);
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
                let labels = Sampler::new(component, decision_type, *dropped);
                observe(&self.samplers, names, &labels, Counter::default, count);
            }
            _ => {}
        }
        let Some(workload) = workload_of(decision) else {
            return;
        };
        let workload = WorkloadOf::new(component, workload);
        let requests = workload.requests(decision_type, *dropped);
        let series = &self.workload_requests;
        observe(series, names, &requests, Counter::default, count);
        if let Some(took) = ended.workload_duration.filter(|_| ended.accepted()) {
            let own = || Some(workload.to_labels());
            let make = || Histogram::new([]);
            let series = &self.workload_latency;
            series.with(names, &workload, own, make, |latency| {
                latency.observe(took);
            });
        }
    }

    pub(in crate::agent) fn classifier(&self, names: &InForceNames, classifier: &ClassifierInfo) {
        if !short(&[&classifier.policy_name, &classifier.policy_hash]) {
            self.classifiers.leave_out();
            return;
        }
        let labels = Classifier {
            policy_name: classifier.policy_name.clone(),
            policy_hash: classifier.policy_hash.clone(),
            classifier_index: classifier.classifier_index,
        };
        let series = &self.classifiers;
        observe(series, names, &labels, Counter::default, |counter| {
            counter.inc();
        });
    }

    /// `None` is not a number.
    pub(in crate::agent) fn flux_meter(
        &self,
        names: &InForceNames,
        ended: &Ended<'_>,
        meter: &FluxMeter,
        value: Option<f64>,
    ) {
        if !short(&[ended.http_status, ended.status]) {
            self.flux_meters.leave_out();
            return;
        }
        let labels = Meter {
            flux_meter_name: meter.name().to_string(),
            policy_name: meter.policy_name().to_owned(),
            decision_type: decision_type(ended),
            http_status_code: ended.http_status.to_owned(),
            flow_status: ended.status.to_owned(),
        };
        match value {
            Some(value) => {
                let make = || Histogram::new(meter.bounds().iter().copied());
                observe(&self.flux_meters, names, &labels, make, |meter| {
                    meter.observe(value);
                });
            }
            None => observe(&self.invalid, names, &labels, Counter::default, |counter| {
                counter.inc();
            }),
        }
    }
}

fn decision_type(ended: &Ended<'_>) -> &'static str {
    let decision = DecisionType::try_from(ended.check.decision_type);
    decision.map_or("", |decision| decision.as_str_name())
}
