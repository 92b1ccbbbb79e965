//! Laws that hold however threads come between each other. Shuttle runs each test many times over,
//! and at each lock and each shared number chooses which thread goes on; where all of them wait for
//! ever, it says so, which is how a lost wake-up shows.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test --target-dir target/shuttle --lib interleavings`; a failure
//! prints the schedule that leads to it, for `shuttle::replay`.

mod queues;
mod reload;
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

use super::{CheckInput, CheckReport, Engine, EngineTicket, ManualClock, Starting};
use crate::flow::FlowParams;

/// Runs by chance, and as many with few changes of threads in each, which finds what is rare.
const RUNS: usize = 500;
/// Changes of threads in the latter: what takes more than two is seldom seen.
const CHANGES: usize = 3;

fn explore(law: impl Fn() + Send + Sync + 'static) {
    let law = Arc::new(law);
    run(RandomScheduler::new(RUNS), Arc::clone(&law));
    run(PctScheduler::new(CHANGES, RUNS), law);
}

fn run(scheduler: impl Scheduler + 'static, law: Arc<impl Fn() + Send + Sync + 'static>) {
    let mut config = Config::new();
    // Policies are read there.
    config.stack_size = 1 << 20;
    Runner::new(scheduler, config).run(move || law());
}

/// An engine of these components, in flow style, with a clock that stands.
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

/// Holds slots for ten seconds.
fn limiter(max: f64) -> String {
    format!(
        "concurrency_limiter: {{{SELECTORS}, in_ports: {{max_concurrency: {}}}, parameters: \
         {{max_inflight_duration: 10s, limit_by_label_key: user}}}}",
        constant(max)
    )
}

/// As long; flows wait for a minute.
fn slots(max: f64) -> String {
    format!(
        "concurrency_scheduler: {{{SELECTORS}, in_ports: {{max_concurrency: {}}}, \
         concurrency_limiter: {{max_inflight_duration: 10s, limit_by_label_key: user}}, \
         scheduler: {{priority_label_key: priority, default_workload_parameters: \
         {{queue_timeout: 60s}}}}}}",
        constant(max)
    )
}

/// Tokens a second; flows wait for as long as it takes.
fn quota(capacity: f64, fill: f64) -> String {
    format!(
        "quota_scheduler: {{{SELECTORS}, in_ports: {{bucket_capacity: {}, fill_amount: {}}}, \
         rate_limiter: {{interval: 1s}}, scheduler: {{priority_label_key: priority, \
         default_workload_parameters: {{queue_timeout: 9999999s}}}}}}",
        constant(capacity),
        constant(fill)
    )
}

fn start(engine: &Engine, priority: usize) -> Starting {
    let params = FlowParams::new()
        .label("user", "ann")
        .label("priority", priority.to_string());
    engine.start(&CheckInput::new("here", &params))
}

/// Waits for the answer, if it has to.
fn ask(engine: &Engine) -> (CheckReport, EngineTicket) {
    block_on(start(engine, 1))
}

/// Runs one on each of so many threads, and waits for them all.
fn together<R: Send + 'static>(
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

/// How many are in at a time.
#[derive(Default)]
struct Gauge(AtomicI64);

impl Gauge {
    fn enter(&self, most: i64) {
        let before = self.0.fetch_add(1, SeqCst);
        assert!(before < most, "{before} are in already");
    }

    fn leave(&self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
