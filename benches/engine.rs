//! What a decision costs in process: by component, by number of keys and policies, by threads.
//!
//! `cargo bench --bench engine`. Times are medians of interleaved rounds; read the ratios.
#![allow(clippy::print_stdout)]

mod support;

use std::fmt::Write as _;
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use support::{Case, Counting, live_bytes, measure, print, run_counted};
use tower_aperture::{
    Check, Decider, Engine, FlowOutcome, FlowParams, FlowStatus, Ticket, Verdict,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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
    let builder = texts.fold(builder, |builder, (nth, text)| {
        builder.policy_text(format!("bench-{nth}.yaml"), text)
    });
    builder.build().expect("the policies are right")
}

/// One flow from the decision to its end.
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

fn accepting(name: &'static str, against: Option<&'static str>, policy: fn() -> String) -> Case {
    Case {
        name,
        against,
        prepare: Box::new(move || {
            let engine = engine(&[policy()]);
            Box::new(move || assert!(flow(&engine, "checkout", "user-42")))
        }),
    }
}

fn cases() -> Vec<Case> {
    const PEER: &str = "governor: keyed check";
    vec![
        Case {
            name: PEER,
            against: None,
            prepare: Box::new(|| {
                let quota = Quota::per_second(NonZeroU32::MAX).allow_burst(NonZeroU32::MAX);
                let limiter = RateLimiter::keyed(quota);
                let key = "user-42".to_owned();
                Box::new(move || assert!(limiter.check_key(&key).is_ok()))
            }),
        },
        accepting("nothing matches", Some(PEER), || {
            rate_limiter("other", "elsewhere")
        }),
        accepting("rate limiter: accept", Some(PEER), || {
            rate_limiter("bench", "checkout")
        }),
        accepting("concurrency limiter: accept and end", Some(PEER), || {
            "blueprint: concurrency-limiting/base
policy:
  policy_name: bench
  concurrency_limiter:
    max_concurrency: 100
    parameters: {max_inflight_duration: 60s, limit_by_label_key: user_id}
    selectors: [{control_point: checkout}]
"
            .to_owned()
        }),
        accepting("quota scheduler: accept", Some(PEER), || {
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
        accepting("concurrency scheduler: accept and end", Some(PEER), || {
            concurrency_scheduler(100)
        }),
        accepting("sampler: accept", Some(PEER), || {
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

/// Nanoseconds for each of `count` runs.
fn timed(count: usize, mut run: impl FnMut(usize)) -> f64 {
    let begun = Instant::now();
    for nth in 0..count {
        run(nth);
    }
    begun.elapsed().as_nanos() as f64 / count as f64
}

fn by_keys() {
    println!("\nBy number of keys, visited in a scattered order\n");
    println!(
        "{:>10} {:>9} {:>14} {:>9} {:>9}",
        "keys", "ns", "bytes a key", "governor", "ratio"
    );
    // A table doubles when it is full, so one number of keys says little.
    let mut on_the_way = Vec::with_capacity(16);
    for keys in [1, 10_000, 1_000_000_usize] {
        let names: Vec<String> = (0..keys).map(|key| format!("user-{key:08}")).collect();
        let visit = |nth: usize| &names[nth.wrapping_mul(2_654_435_761) % keys];
        let before = live_bytes();
        let engine = engine(&[rate_limiter("bench", "checkout")]);
        // The text of a key takes 13 bytes of it.
        let a_key = |known: usize| (live_bytes() - before) as f64 / known as f64 - 13.0;
        for (nth, name) in names.iter().enumerate() {
            flow(&engine, "checkout", name);
            let known = nth + 1;
            if known >= 500_000 && known.is_multiple_of(50_000) {
                on_the_way.push(a_key(known));
            }
        }
        let bytes = a_key(keys);
        let quota = Quota::per_second(NonZeroU32::MAX).allow_burst(NonZeroU32::MAX);
        let peer: DefaultKeyedRateLimiter<String> = RateLimiter::keyed(quota);
        for name in &names {
            let _ = peer.check_key(name);
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(timed(50_000, |nth| {
                assert!(flow(&engine, "checkout", visit(nth)));
            }));
            theirs.push(timed(50_000, |nth| {
                assert!(peer.check_key(visit(nth)).is_ok());
            }));
        }
        let (ours, theirs) = (median(ours), median(theirs));
        let bytes = if keys == 1 {
            "-".to_owned()
        } else {
            format!("{bytes:.0}")
        };
        println!(
            "{keys:>10} {ours:>9.1} {bytes:>14} {theirs:>9.1} {:>7.2} x",
            ours / theirs
        );
    }
    let mean = on_the_way.iter().sum::<f64>() / on_the_way.len() as f64;
    println!("from 500 k to 1 M keys {mean:.0} bytes a key on average, its text apart");
}

fn by_policies() {
    println!("\nBy number of policies, each with a control point of its own\n");
    println!("{:>10} {:>9} {:>9}", "policies", "ns", "ratio");
    let engines = [1, 1000].map(|count| {
        let policies: Vec<String> = (0..count)
            .map(|nth| {
                let mut point = String::new();
                let _ = write!(point, "checkout-{nth}");
                rate_limiter(&format!("policy-{nth}"), &point)
            })
            .collect();
        (count, engine(&policies), Vec::new())
    });
    let mut engines = engines;
    for _ in 0..ROUNDS {
        for (_, engine, times) in &mut engines {
            times.push(timed(50_000, |_| {
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

/// A reload reads again the policies that changed only.
fn by_reloads() {
    println!("\nReloads, by number of policies and how many of them changed\n");
    println!(
        "{:>10} {:>9} {:>9} {:>16} {:>9}",
        "policies", "changed", "ms", "µs a policy", "ratio"
    );
    let mut first = None;
    for count in [1000, 10_000] {
        for changed in [0, 1, count] {
            let policies = |round: usize| {
                let policies = (0..count).map(|nth| {
                    let mut text = rate_limiter(&format!("policy-{nth}"), &format!("point-{nth}"));
                    if nth < changed {
                        let _ = writeln!(text, "# {round}");
                    }
                    (format!("policy-{nth}.yaml"), text)
                });
                policies.collect::<Vec<_>>()
            };
            let engine = engine(&[]);
            let times = (0..5).map(|round| {
                let policies = policies(round);
                let begun = Instant::now();
                engine
                    .reload_with(policies)
                    .expect("the policies are right");
                begun.elapsed().as_secs_f64()
            });
            // The first one reads all of them.
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

fn by_threads() {
    const CALLS: usize = 200_000;
    println!("\nOne hot key, by number of threads\n");
    println!(
        "{:>10} {:>16} {:>16} {:>9}",
        "threads", "decisions/s", "governor", "ratio"
    );
    let engine = engine(&[rate_limiter("bench", "checkout")]);
    let quota = Quota::per_second(NonZeroU32::MAX).allow_burst(NonZeroU32::MAX);
    let peer: Arc<DefaultKeyedRateLimiter<String>> = Arc::new(RateLimiter::keyed(quota));
    let key = "user-42".to_owned();
    for threads in [1, 4] {
        let together = |run: &(dyn Fn() + Sync)| {
            let begun = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| (0..CALLS).for_each(|_| run()));
                }
            });
            (threads * CALLS) as f64 / begun.elapsed().as_secs_f64()
        };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            ours.push(together(&|| assert!(flow(&engine, "checkout", "user-42"))));
            theirs.push(together(&|| assert!(peer.check_key(&key).is_ok())));
        }
        let (ours, theirs) = (median(ours), median(theirs));
        println!(
            "{threads:>10} {ours:>16.0} {theirs:>16.0} {:>7.2} x",
            ours / theirs
        );
    }
}

/// Says which waiter was woken.
struct Woken {
    waiter: usize,
    all: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        let mut all = self.all.lock().expect("nobody panics with it");
        all.push(self.waiter);
    }
}

fn by_waiters() {
    const WAKES: usize = 2000;
    println!("\nGiving a slot back and taking it, by number of flows that wait for one\n");
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
            let waker = Waker::from(Arc::new(Woken {
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
            let begun = Instant::now();
            ticket.end(FlowOutcome::new(FlowStatus::Ok));
            let woken = all.lock().expect("nobody panics with it").pop();
            let woken = woken.expect("somebody is woken");
            let Poll::Ready(Verdict::Accepted(next)) = waiting[woken].as_mut().poll(&mut cx) else {
                panic!("who is woken has the slot");
            };
            times.push(begun.elapsed().as_nanos() as f64);
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
}
