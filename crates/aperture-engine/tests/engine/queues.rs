//! Builds policies of concurrency limiters and schedulers, and starts flows of an engine in one
//! call each.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tower_aperture::FlowParams;
use tower_aperture::engine::{
    CheckInput, CheckReport, Engine, EngineTicket, LimiterDetails, ManualClock, PendingReport,
    TokensInfo,
};

use crate::support::{HERE, decision_of, params};

/// Creates an engine from components in YAML's flow style, each `kind: {..}`.
pub(crate) fn engine_of(components: &[String]) -> (Engine, ManualClock) {
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("test.yaml", policy_of(components))
        .clock(clock.clone())
        .build();
    (engine.expect("the policy is valid"), clock)
}

pub(crate) fn policy_of(components: &[String]) -> String {
    let mut text = String::from("circuit:\n  components:\n");
    for component in components {
        text.push_str("  - flow_control: {");
        text.push_str(component);
        text.push_str("}\n");
    }
    text
}

fn selectors() -> String {
    format!("selectors: [{{control_point: {HERE}}}]")
}

pub(crate) fn limiter(max: f64, parameters: &str) -> String {
    format!(
        "concurrency_limiter: {{{}, in_ports: {{max_concurrency: {{constant_signal: {{value: \
         {max}}}}}}}, parameters: {{max_inflight_duration: 10s{parameters}}}, request_parameters: \
         {{tokens_label_key: tokens}}}}",
        selectors()
    )
}

pub(crate) fn slots(max: f64, parameters: &str, scheduler: &str) -> String {
    format!(
        "concurrency_scheduler: {{{}, in_ports: {{max_concurrency: {{constant_signal: {{value: \
         {max}}}}}}}, concurrency_limiter: {{max_inflight_duration: 10s{parameters}}}, scheduler: \
         {{tokens_label_key: tokens, priority_label_key: priority{scheduler}}}}}",
        selectors()
    )
}

pub(crate) fn quota(capacity: f64, fill: f64, scheduler: &str) -> String {
    format!(
        "quota_scheduler: {{{}, in_ports: {{bucket_capacity: {{constant_signal: {{value: \
         {capacity}}}}}, fill_amount: {{constant_signal: {{value: {fill}}}}}}}, rate_limiter: \
         {{interval: 1s}}, scheduler: {{tokens_label_key: tokens, priority_label_key: \
         priority{scheduler}}}}}",
        selectors()
    )
}

pub(crate) const QUEUE_TIMEOUT_5S: &str = ", default_workload_parameters: {queue_timeout: 5s}";

pub(crate) fn start(engine: &Engine, labels: &[(&str, &str)]) -> PendingReport {
    engine.start(&CheckInput::new(HERE, &params(labels)))
}

/// Starts a flow that has this many milliseconds to its deadline.
pub(crate) fn start_within(engine: &Engine, labels: &[(&str, &str)], millis: u64) -> PendingReport {
    let params: FlowParams<'_> = params(labels);
    let budget = Some(Duration::from_millis(millis));
    engine.start(&CheckInput::new(HERE, &params).deadline(budget))
}

/// Polls once, with a waker that does nothing.
pub(crate) fn poll(pending: &mut PendingReport) -> Option<(CheckReport, EngineTicket)> {
    poll_with(pending, Waker::noop())
}

pub(crate) fn poll_with(
    pending: &mut PendingReport,
    waker: &Waker,
) -> Option<(CheckReport, EngineTicket)> {
    match Pin::new(pending).poll(&mut Context::from_waker(waker)) {
        Poll::Ready(decision) => Some(decision),
        Poll::Pending => None,
    }
}

/// Returns the decision on a flow that does not have to wait.
pub(crate) fn decided(mut pending: PendingReport) -> (CheckReport, EngineTicket) {
    poll(&mut pending).expect("the flow is decided without waiting")
}

/// Returns the tokens that a component reports, and whether the flow holds a slot.
pub(crate) fn tokens_and_slot(report: &CheckReport, component: &str) -> (TokensInfo, bool) {
    let details = &decision_of(report, component).details;
    let tokens = match details {
        LimiterDetails::ConcurrencyLimiter { tokens, .. } => Some(*tokens),
        LimiterDetails::QuotaScheduler { scheduler, .. }
        | LimiterDetails::ConcurrencyScheduler { scheduler, .. }
        | LimiterDetails::LoadScheduler { scheduler } => scheduler.tokens,
        _ => None,
    };
    (tokens.unwrap_or_default(), details.slot().is_some())
}

/// A waker that counts how often it is woken.
#[derive(Debug, Default)]
pub(crate) struct WakeCounter(AtomicUsize);

impl WakeCounter {
    pub(crate) fn wakes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
