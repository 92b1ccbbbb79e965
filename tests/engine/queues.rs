//! Policies of what holds and waits, and short ways to ask.

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

use crate::support::{HERE, of, params};

/// Components in flow style, each `kind: {..}`.
pub(crate) fn engine_of(components: &[String]) -> (Engine, ManualClock) {
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("test.yaml", policy_of(components))
        .clock(clock.clone())
        .build();
    (engine.expect("the policy is right"), clock)
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

pub(crate) const PATIENT: &str = ", default_workload_parameters: {queue_timeout: 5s}";

pub(crate) fn start(engine: &Engine, labels: &[(&str, &str)]) -> PendingReport {
    engine.start(&CheckInput::new(HERE, &params(labels)))
}

pub(crate) fn start_within(engine: &Engine, labels: &[(&str, &str)], millis: u64) -> PendingReport {
    let params: FlowParams<'_> = params(labels);
    let left = Some(Duration::from_millis(millis));
    engine.start(&CheckInput::new(HERE, &params).deadline(left))
}

/// What it comes to by now.
pub(crate) fn poll(starting: &mut PendingReport) -> Option<(CheckReport, EngineTicket)> {
    poll_with(starting, Waker::noop())
}

pub(crate) fn poll_with(
    starting: &mut PendingReport,
    waker: &Waker,
) -> Option<(CheckReport, EngineTicket)> {
    match Pin::new(starting).poll(&mut Context::from_waker(waker)) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

pub(crate) fn now(mut starting: PendingReport) -> (CheckReport, EngineTicket) {
    poll(&mut starting).expect("it need not wait")
}

/// Tokens, and whether there is a slot.
pub(crate) fn seen(report: &CheckReport, component: &str) -> (TokensInfo, bool) {
    let details = &of(report, component).details;
    let tokens = match details {
        LimiterDetails::ConcurrencyLimiter { tokens, .. } => Some(*tokens),
        LimiterDetails::QuotaScheduler { scheduler, .. }
        | LimiterDetails::ConcurrencyScheduler { scheduler, .. }
        | LimiterDetails::LoadScheduler { scheduler } => scheduler.tokens,
        _ => None,
    };
    (tokens.unwrap_or_default(), details.slot().is_some())
}

/// Counts how often it is woken.
#[derive(Debug, Default)]
pub(crate) struct Alarm(AtomicUsize);

impl Alarm {
    pub(crate) fn rung(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
