//! Tests under Shuttle: properties that hold for every interleaving of threads. Shuttle runs each
//! test many times and chooses at each lock and each atomic which thread continues. It reports a
//! deadlock if all threads wait, which reveals a lost wake-up.
//!
//! Run them with `RUSTFLAGS="--cfg shuttle" cargo test --target-dir target/shuttle --lib
//! interleavings`. A failure prints its schedule, for `shuttle::replay`.

mod queues;
mod reload;
mod shared;
mod slots;
mod store;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::AtomicI64;
use shuttle::thread;
use shuttle::{Config, Runner};

use super::{
    CheckInput, CheckReport, Engine, EngineMode, EngineTicket, ManualClock, PendingReport,
};
use aperture_core::FlowParams;

/// The number of random runs, and of runs with few switches between threads, which find rare
/// errors.
const RUNS: usize = 500;
/// The switches in the latter runs. Few errors need more than two.
const CHANGES: usize = 3;

fn explore(law: impl Fn() + Send + Sync + 'static) {
    let law = Arc::new(law);
    run(RandomScheduler::new(RUNS), Arc::clone(&law));
    run(PctScheduler::new(CHANGES, RUNS), law);
}

fn run(scheduler: impl Scheduler + 'static, law: Arc<impl Fn() + Send + Sync + 'static>) {
    let mut config = Config::new();
    // The engine parses its policies on this stack.
    config.stack_size = 1 << 20;
    Runner::new(scheduler, config).run(move || law());
}

/// Returns an engine with these components, in YAML flow style, and its clock, which is stopped.
fn engine_of(components: &[String]) -> (Engine, ManualClock) {
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("test.yaml", policy_of(components))
        .clock(clock.clone())
        .max_keys(64)
        .build();
    (engine.expect("the policy is right"), clock)
}

fn policy_of(components: &[String]) -> String {
    let mut text = String::from("circuit:\n  components:\n");
    for component in components {
        text.push_str(&format!("  - flow_control: {{{component}}}\n"));
    }
    text
}

const SELECTORS: &str = "selectors: [{control_point: here}]";

fn constant(value: f64) -> String {
    format!("{{constant_signal: {{value: {value}}}}}")
}

fn rate_limiter(capacity: f64) -> String {
    format!(
        "rate_limiter: {{{SELECTORS}, in_ports: {{bucket_capacity: {}, fill_amount: {}}}, \
         parameters: {{interval: 1s, limit_by_label_key: user}}}}",
        constant(capacity),
        constant(0.0)
    )
}

/// A concurrency limiter whose slots expire after ten seconds.
fn limiter(max: f64) -> String {
    format!(
        "concurrency_limiter: {{{SELECTORS}, in_ports: {{max_concurrency: {}}}, parameters: \
         {{max_inflight_duration: 10s, limit_by_label_key: user}}}}",
        constant(max)
    )
}

/// A concurrency scheduler whose slots expire after ten seconds and whose flows wait up to a
/// minute.
fn slots(max: f64) -> String {
    format!(
        "concurrency_scheduler: {{{SELECTORS}, in_ports: {{max_concurrency: {}}}, \
         concurrency_limiter: {{max_inflight_duration: 10s, limit_by_label_key: user}}, \
         scheduler: {{priority_label_key: priority, default_workload_parameters: \
         {{queue_timeout: 60s}}}}}}",
        constant(max)
    )
}

/// A quota scheduler, with `fill` tokens per second, whose flows wait as long as necessary.
fn quota(capacity: f64, fill: f64) -> String {
    format!(
        "quota_scheduler: {{{SELECTORS}, in_ports: {{bucket_capacity: {}, fill_amount: {}}}, \
         rate_limiter: {{interval: 1s}}, scheduler: {{priority_label_key: priority, \
         default_workload_parameters: {{queue_timeout: 9999999s}}}}}}",
        constant(capacity),
        constant(fill)
    )
}

fn start<M: EngineMode>(engine: &Engine<M>, priority: usize) -> PendingReport {
    let params = FlowParams::new()
        .label("user", "ann")
        .label("priority", priority.to_string());
    engine.start(&CheckInput::new("here", &params))
}

/// Checks a flow and waits for the decision.
fn check(engine: &Engine) -> (CheckReport, EngineTicket) {
    block_on(start(engine, 1))
}

/// Runs `act` on `threads` threads and waits for all of them.
fn run_threads<R: Send + 'static>(
    threads: usize,
    act: impl Fn(usize) -> R + Send + Sync + 'static,
) -> Vec<R> {
    let act = Arc::new(act);
    let threads: Vec<_> = (0..threads)
        .map(|at| {
            let act = Arc::clone(&act);
            thread::spawn(move || act(at))
        })
        .collect();
    threads
        .into_iter()
        .map(|thread| thread.join().expect("no thread panics"))
        .collect()
}

/// Counts the flows that are in flight at a time.
#[derive(Default)]
struct InFlightGauge(AtomicI64);

impl InFlightGauge {
    fn enter(&self, most: i64) {
        let before = self.0.fetch_add(1, SeqCst);
        assert!(before < most, "{before} are in flight already");
    }

    fn leave(&self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
