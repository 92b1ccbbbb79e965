//! Measures the cost of decisions in process: by component, number of keys, number of policies and
//! threads, and of work that grows with the size of its input.
//!
//! Run with `cargo bench --bench engine`. Times are medians of interleaved rounds; compare the
//! ratios.
#![allow(clippy::print_stdout)]

#[path = "support/growth.rs"]
mod growth;
#[path = "../../../benches/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use support::{BenchCase, CountingAllocator, live_bytes, measure, print, run_counted};
use tower_aperture::{
    Check, Decider, Engine, FlowOutcome, FlowParams, FlowStatus, Ticket, Verdict,
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const ROUNDS: usize = 15;

fn rate_limiter(name: &str, control_point: &str) -> String {
    format!(
        "blueprint: rate-limiting/base
policy:
  policy_name: {name}
  rate_limiter:
    bucket_capacity: 1e15
    fill_amount: 1e15
    parameters: {{interval: 1s, limit_by_label_key: user_id}}
    selectors: [{{control_point: {control_point}}}]
"
    )
}

fn concurrency_scheduler(slots: u32) -> String {
    format!(
        "blueprint: concurrency-scheduling/base
policy:
  policy_name: bench
  concurrency_scheduler:
    max_concurrency: {slots}
    concurrency_limiter: {{max_inflight_duration: 3600s}}
    scheduler: {{default_workload_parameters: {{queue_timeout: 3600s}}}}
    selectors: [{{control_point: checkout}}]
"
    )
}

fn engine(policies: &[String]) -> Engine {
    let builder = Engine::builder().max_keys(4 << 20);
    let texts = policies.iter().enumerate();
    let builder = texts.fold(builder, |builder, (index, text)| {
        builder.policy_text(format!("bench-{index}.yaml"), text)
    });
    builder.build().expect("valid policies")
}

/// Runs one flow from its decision to its end, and returns whether it was accepted.
fn flow(engine: &Engine, control_point: &str, user: &str) -> bool {
    let params = FlowParams::new().label("user_id", user);
    match engine.decide(control_point, &params) {
        Check::Ready(Verdict::Accepted(ticket)) => {
            ticket.end(FlowOutcome::new(FlowStatus::Ok));
            true
        }
        Check::Ready(_) | Check::Pending(_) => false,
    }
}

fn accepting_case(
    name: &'static str,
    against: Option<&'static str>,
    policy: fn() -> String,
) -> BenchCase {
    BenchCase {
        name,
        against,
        prepare: Box::new(move || {
            let engine = engine(&[policy()]);
            Box::new(move || assert!(flow(&engine, "checkout", "user-42")))
        }),
    }
}

fn cases() -> Vec<BenchCase> {
    const GOVERNOR: &str = "governor: keyed check";
    vec![
        BenchCase {
            name: GOVERNOR,
            against: None,
            prepare: Box::new(|| {
                let quota = Quota::per_second(NonZeroU32::MAX).allow_burst(NonZeroU32::MAX);
                let limiter = RateLimiter::keyed(quota);
                let key = "user-42".to_owned();
                Box::new(move || assert!(limiter.check_key(&key).is_ok()))
            }),
        },
        accepting_case("no policy matches", Some(GOVERNOR), || {
            rate_limiter("other", "elsewhere")
        }),
        accepting_case("rate limiter: accept", Some(GOVERNOR), || {
            rate_limiter("bench", "checkout")
        }),
        accepting_case(
            "concurrency limiter: accept and end",
            Some(GOVERNOR),
            || {
                "blueprint: concurrency-limiting/base
policy:
  policy_name: bench
  concurrency_limiter:
    max_concurrency: 100
    parameters: {max_inflight_duration: 60s, limit_by_label_key: user_id}
    selectors: [{control_point: checkout}]
"
                .to_owned()
            },
        ),
        accepting_case("quota scheduler: accept", Some(GOVERNOR), || {
            "blueprint: quota-scheduling/base
policy:
  policy_name: bench
  quota_scheduler:
    bucket_capacity: 1e15
    fill_amount: 1e15
    rate_limiter: {interval: 1s, limit_by_label_key: user_id}
    selectors: [{control_point: checkout}]
"
            .to_owned()
        }),
        accepting_case(
            "concurrency scheduler: accept and end",
            Some(GOVERNOR),
            || concurrency_scheduler(100),
        ),
        accepting_case("sampler: accept", Some(GOVERNOR), || {
            "circuit:
  components:
  - flow_control:
      sampler:
        in_ports: {accept_percentage: {constant_signal: {value: 100}}}
        parameters:
          session_label_key: user_id
          selectors: [{control_point: checkout}]
"
            .to_owned()
        }),
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the nanoseconds per run over `count` runs.
fn time_per_run(count: usize, mut run: impl FnMut(usize)) -> f64 {
    let started = Instant::now();
    for index in 0..count {
        run(index);
    }
    started.elapsed().as_nanos() as f64 / count as f64
}

/// Measures decisions by number of keys.
fn by_keys() {
    println!("\nBy number of keys, visited in a scattered order\n");
    println!(
        "{:>10} {:>9} {:>14} {:>9} {:>9}",
        "keys", "ns", "bytes per key", "governor", "ratio"
    );
    // A hash table doubles when it is full, so one number of keys is not representative.
    let mut samples = Vec::with_capacity(16);
    for keys in [1, 10_000, 1_000_000_usize] {
        let names: Vec<String> = (0..keys).map(|key| format!("user-{key:08}")).collect();
        let visit = |index: usize| &names[index.wrapping_mul(2_654_435_761) % keys];
        let before = live_bytes();
        let engine = engine(&[rate_limiter("bench", "checkout")]);
        // The text of a key accounts for 13 bytes.
        let bytes_per_key = |known: usize| (live_bytes() - before) as f64 / known as f64 - 13.0;
        for (index, name) in names.iter().enumerate() {
            flow(&engine, "checkout", name);
            let known = index + 1;
            if known >= 500_000 && known.is_multiple_of(50_000) {
                samples.push(bytes_per_key(known));
            }
        }
        let bytes = bytes_per_key(keys);
        let quota = Quota::per_second(NonZeroU32::MAX).allow_burst(NonZeroU32::MAX);
        let governor: DefaultKeyedRateLimiter<String> = RateLimiter::keyed(quota);
        for name in &names {
            let _ = governor.check_key(name);
        }
        let (mut own_times, mut governor_times) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            own_times.push(time_per_run(50_000, |index| {
                assert!(flow(&engine, "checkout", visit(index)));
            }));
            governor_times.push(time_per_run(50_000, |index| {
                assert!(governor.check_key(visit(index)).is_ok());
            }));
        }
        let (own_times, governor_times) = (median(own_times), median(governor_times));
        let bytes = if keys == 1 {
            "-".to_owned()
        } else {
            format!("{bytes:.0}")
        };
        println!(
            "{keys:>10} {own_times:>9.1} {bytes:>14} {governor_times:>9.1} {:>7.2} x",
            own_times / governor_times
        );
    }
    let mean = samples.iter().sum::<f64>() / samples.len() as f64;
    println!("from 500 k to 1 M keys: {mean:.0} bytes per key on average, without its text");
}

/// Measures decisions by number of policies.
fn by_policies() {
    println!("\nBy number of policies, each with a control point of its own\n");
    println!("{:>10} {:>9} {:>9}", "policies", "ns", "ratio");
    let engines = [1, 1000].map(|count| {
        let policies: Vec<String> = (0..count)
            .map(|index| {
                let mut point = String::new();
                let _ = write!(point, "checkout-{index}");
                rate_limiter(&format!("policy-{index}"), &point)
            })
            .collect();
        (count, engine(&policies), Vec::new())
    });
    let mut engines = engines;
    for _ in 0..ROUNDS {
        for (_, engine, times) in &mut engines {
            times.push(time_per_run(50_000, |_| {
                assert!(flow(engine, "checkout-0", "user-42"));
            }));
        }
    }
    let one = median(engines[0].2.clone());
    for (count, _, times) in engines {
        let time = median(times);
        println!("{count:>10} {time:>9.1} {:>7.2} x", time / one);
    }
}

/// Measures reloads, which parse only the policies that changed.
fn by_reloads() {
    println!("\nReloads, by number of policies and how many of them changed\n");
    println!(
        "{:>10} {:>9} {:>9} {:>16} {:>9}",
        "policies", "changed", "ms", "µs per policy", "ratio"
    );
    let mut first = None;
    for count in [1000, 10_000] {
        for changed in [0, 1, count] {
            let policies = |round: usize| {
                let policies = (0..count).map(|index| {
                    let mut text =
                        rate_limiter(&format!("policy-{index}"), &format!("point-{index}"));
                    if index < changed {
                        let _ = writeln!(text, "# {round}");
                    }
                    (format!("policy-{index}.yaml"), text)
                });
                policies.collect::<Vec<_>>()
            };
            let engine = engine(&[]);
            let times = (0..5).map(|round| {
                let policies = policies(round);
                let started = Instant::now();
                engine.reload_with(policies).expect("valid policies");
                started.elapsed().as_secs_f64()
            });
            // The first reload parses all policies.
            let time = median(times.skip(1).collect());
            let each = time / f64::from(count as u32);
            let first = *first.get_or_insert(each);
            println!(
                "{count:>10} {changed:>9} {:>9.1} {:>16.2} {:>7.2} x",
                time * 1e3,
                each * 1e6,
                each / first
            );
        }
    }
}

/// Measures the throughput of one key by number of threads.
fn by_threads() {
    const CALLS: usize = 200_000;
    println!("\nOne hot key, by number of threads\n");
    println!(
        "{:>10} {:>16} {:>16} {:>9}",
        "threads", "decisions/s", "governor", "ratio"
    );
    let engine = engine(&[rate_limiter("bench", "checkout")]);
    let quota = Quota::per_second(NonZeroU32::MAX).allow_burst(NonZeroU32::MAX);
    let governor: Arc<DefaultKeyedRateLimiter<String>> = Arc::new(RateLimiter::keyed(quota));
    let key = "user-42".to_owned();
    for threads in [1, 4] {
        let throughput = |run: &(dyn Fn() + Sync)| {
            let started = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| (0..CALLS).for_each(|_| run()));
                }
            });
            (threads * CALLS) as f64 / started.elapsed().as_secs_f64()
        };
        let (mut own_times, mut governor_times) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            own_times.push(throughput(&|| {
                assert!(flow(&engine, "checkout", "user-42"));
            }));
            governor_times.push(throughput(&|| assert!(governor.check_key(&key).is_ok())));
        }
        let (own_times, governor_times) = (median(own_times), median(governor_times));
        println!(
            "{threads:>10} {own_times:>16.0} {governor_times:>16.0} {:>7.2} x",
            own_times / governor_times
        );
    }
}

/// A waker that records its waiter when it is woken.
struct RecordingWaker {
    waiter: usize,
    all: Arc<Mutex<Vec<usize>>>,
}

impl Wake for RecordingWaker {
    fn wake(self: Arc<Self>) {
        let mut all = self.all.lock().expect("no panic while it is locked");
        all.push(self.waiter);
    }
}

/// Measures the return of a slot by number of waiting flows.
fn by_waiters() {
    const WAKES: usize = 2000;
    println!("\nReturning and taking a slot, by number of flows that wait for one\n");
    println!("{:>10} {:>9}", "waiting", "ns");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime starts");
    let _inside = runtime.enter();
    for count in [1, 100_000_usize] {
        let engine = engine(&[concurrency_scheduler(1)]);
        let all = Arc::new(Mutex::new(Vec::new()));
        let wait = |waiter: usize| {
            let Check::Pending(pending) = engine.decide("checkout", &FlowParams::new()) else {
                panic!("the only slot is taken");
            };
            let mut pending = Box::pin(pending);
            let waker = Waker::from(Arc::new(RecordingWaker {
                waiter,
                all: Arc::clone(&all),
            }));
            let polled = pending.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            pending
        };
        let Check::Ready(Verdict::Accepted(mut ticket)) =
            engine.decide("checkout", &FlowParams::new())
        else {
            panic!("the slot is free");
        };
        let mut waiting: Vec<_> = (0..count).map(wait).collect();
        let mut times = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..WAKES {
            let started = Instant::now();
            ticket.end(FlowOutcome::new(FlowStatus::Ok));
            let woken = all.lock().expect("no panic while it is locked").pop();
            let woken = woken.expect("a waiter was woken");
            let Poll::Ready(Verdict::Accepted(next)) = waiting[woken].as_mut().poll(&mut cx) else {
                panic!("the woken waiter has the slot");
            };
            times.push(started.elapsed().as_nanos() as f64);
            ticket = next;
            waiting[woken] = wait(woken);
        }
        println!("{count:>10} {:>9.0}", median(times));
    }
}

fn main() {
    let cases = cases();
    if run_counted(&cases) {
        return;
    }
    let rows = measure(&cases, 10_000);
    print("One flow, from the decision to its end", &rows);
    by_keys();
    by_policies();
    by_reloads();
    by_threads();
    by_waiters();
    growth::print_growth();
}
