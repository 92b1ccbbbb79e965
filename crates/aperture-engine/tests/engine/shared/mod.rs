//! Engines that share limits through a store.

mod absence;
mod accounts;
mod balance;
mod buckets;
mod cache_calls;
mod cache_lookups;
mod cache_store;
mod ends;
mod modes;
mod queues;
mod slots;
mod store;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tower_aperture::FlowParams;
use tower_aperture::engine::{
    CheckInput, CheckReport, Engine, EngineBuilder, EngineTicket, ManualClock, PendingReport,
    Shared,
};

use self::store::{FakeStore, Replies};
use crate::support::HERE;

/// An engine with a shared store.
type SharedEngine = Engine<Shared>;

/// Components of a policy in YAML's flow style, for the control point [`HERE`].
fn policy(components: &[String]) -> String {
    let mut text = String::from("circuit:\n  components:\n");
    for component in components {
        text.push_str(&format!("  - flow_control: {{{component}}}\n"));
    }
    text
}

fn constant(value: f64) -> String {
    format!("{{constant_signal: {{value: {value:?}}}}}")
}

fn selectors() -> String {
    format!("selectors: [{{control_point: {HERE}}}]")
}

/// A rate limiter by the label `user`, with `fill` tokens per second.
fn rate_limiter(capacity: f64, fill: f64, more: &str) -> String {
    format!(
        "rate_limiter: {{{}, in_ports: {{bucket_capacity: {}, fill_amount: {}}}, parameters: \
         {{interval: 1s, limit_by_label_key: user{more}}}, request_parameters: \
         {{tokens_label_key: tokens}}}}",
        selectors(),
        constant(capacity),
        constant(fill)
    )
}

/// A concurrency limiter by the label `user`, whose slots expire after ten seconds.
fn concurrency_limiter(max: f64) -> String {
    format!(
        "concurrency_limiter: {{{}, in_ports: {{max_concurrency: {}}}, parameters: \
         {{max_inflight_duration: 10s, limit_by_label_key: user}}}}",
        selectors(),
        constant(max)
    )
}

/// A quota scheduler, with `fill` tokens per second, whose flows wait up to a minute.
fn quota(capacity: f64, fill: f64) -> String {
    format!(
        "quota_scheduler: {{{}, in_ports: {{bucket_capacity: {}, fill_amount: {}}}, \
         rate_limiter: {{interval: 1s}}, scheduler: {{priority_label_key: priority, \
         default_workload_parameters: {{queue_timeout: 60s}}}}}}",
        selectors(),
        constant(capacity),
        constant(fill)
    )
}

/// A concurrency scheduler whose slots expire after ten seconds and whose flows wait up to a
/// minute.
fn concurrency_scheduler(max: f64) -> String {
    format!(
        "concurrency_scheduler: {{{}, in_ports: {{max_concurrency: {}}}, concurrency_limiter: \
         {{max_inflight_duration: 10s}}, scheduler: {{priority_label_key: priority, \
         default_workload_parameters: {{queue_timeout: 60s}}}}}}",
        selectors(),
        constant(max)
    )
}

/// One component of each kind whose state is in the store, with a limit of ten.
fn every_kind() -> [String; 4] {
    [
        rate_limiter(10.0, 0.0, ""),
        concurrency_limiter(10.0),
        quota(10.0, 0.0),
        concurrency_scheduler(10.0),
    ]
}

fn builder(store: &FakeStore, clock: &ManualClock, components: &[String]) -> EngineBuilder<Shared> {
    Engine::builder()
        .policy_text("shared.yaml", policy(components))
        .clock(clock.clone())
        .shared(store.clone())
}

fn engine(store: &FakeStore, clock: &ManualClock, components: &[String]) -> SharedEngine {
    let engine = builder(store, clock, components).build();
    engine.expect("the policy is valid")
}

/// Returns a store, its clock, and an engine.
fn one(replies: Replies, components: &[String]) -> (FakeStore, ManualClock, SharedEngine) {
    let clock = ManualClock::new();
    let store = FakeStore::new(&clock, replies);
    let engine = engine(&store, &clock, components);
    (store, clock, engine)
}

/// Returns a store, its clock, and engines that share it.
fn several(
    count: usize,
    replies: Replies,
    components: &[String],
) -> (FakeStore, ManualClock, Vec<SharedEngine>) {
    let clock = ManualClock::new();
    let store = FakeStore::new(&clock, replies);
    let engines = (0..count).map(|_| engine(&store.node(), &clock, components));
    let engines = engines.collect();
    (store, clock, engines)
}

fn params() -> FlowParams<'static> {
    FlowParams::new().label("user", "ann")
}

fn start(engine: &SharedEngine) -> PendingReport {
    start_with(engine, &params())
}

fn start_with(engine: &SharedEngine, params: &FlowParams<'_>) -> PendingReport {
    engine.start(&CheckInput::new(HERE, params))
}

fn start_within(engine: &SharedEngine, time: Duration) -> PendingReport {
    engine.start(&CheckInput::new(HERE, &params()).deadline(Some(time)))
}

fn poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(future).poll(&mut context) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Returns the decision about a flow that waits for nothing any more.
fn decided(mut pending: PendingReport) -> (CheckReport, EngineTicket) {
    poll(&mut pending).expect("it is decided")
}

/// Starts a flow that is decided at once, and returns whether it is accepted.
fn accepts(engine: &SharedEngine) -> bool {
    decided(start(engine)).0.accepted()
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
