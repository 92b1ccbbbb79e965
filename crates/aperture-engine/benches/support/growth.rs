//! Work that callers and policies can enlarge, measured at growing sizes. Each must grow linearly or
//! better.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tower_aperture::engine::{CheckInput, HttpInput, HttpRequest, ManualClock};
use tower_aperture::{Engine, FlowParams};

const SIZES: [usize; 4] = [1000, 2000, 4000, 8000];

/// Does work of a size and returns how long it took.
type Work = fn(usize) -> Duration;

/// Prints a table of each kind of work: the time per element, relative to the smallest size.
pub(crate) fn print_growth() {
    println!("\nWork by size; a ratio of 1 is linear growth\n");
    println!(
        "{:<36} {:>8} {:>9} {:>15} {:>8}",
        "", "size", "ms", "ns per element", "ratio"
    );
    let kinds: [(&str, Work); 5] = [
        ("cache lookup, keys", cache_lookup),
        ("expiry, slots with mixed costs", expiry),
        ("JSON body, levels", |size| json_body(&nested(size))),
        ("JSON body, members", |size| json_body(&members(size))),
        ("limiters at one control point", limiters),
    ];
    for (name, work) in kinds {
        let mut first = None;
        for size in SIZES {
            let mut times: Vec<_> = (0..5).map(|_| work(size)).collect();
            times.sort_unstable();
            let time = times[times.len() / 2].as_secs_f64();
            let each = time / size as f64;
            let ratio = each / *first.get_or_insert(each);
            println!(
                "{name:<36} {size:>8} {:>9.3} {:>15.1} {ratio:>6.2} x",
                time * 1e3,
                each * 1e9
            );
        }
    }
}

fn timed<R>(work: impl FnOnce() -> R) -> Duration {
    let started = Instant::now();
    let result = work();
    let time = started.elapsed();
    drop(result);
    time
}

fn cache_lookup(size: usize) -> Duration {
    let engine = Engine::builder().build().expect("an engine");
    let keys = (0..size).map(|key| format!("key-{key}"));
    let params = keys.fold(FlowParams::new(), FlowParams::global_cache_key);
    timed(|| engine.check(&CheckInput::new("checkout", &params)))
}

/// All slots of a key expire at once, and one flow removes them.
fn expiry(size: usize) -> Duration {
    let policy = "
circuit:
  components:
  - flow_control:
      concurrency_limiter:
        selectors: [{control_point: checkout}]
        in_ports: {max_concurrency: {constant_signal: {value: 1e15}}}
        parameters: {max_inflight_duration: 60s}
        request_parameters: {tokens_label_key: cost}
";
    let clock = ManualClock::new();
    let engine = Engine::builder().clock(clock.clone());
    let engine = engine
        .policy_text("slots.yaml", policy)
        .build()
        .expect("a valid policy");
    let check = |cost: usize| {
        let cost = cost.to_string();
        let params = FlowParams::new().label("cost", &*cost);
        assert!(
            engine
                .check(&CheckInput::new("checkout", &params))
                .accepted()
        );
    };
    (0..size).for_each(|flow| check(1 + flow % 1000));
    clock.advance(Duration::from_secs(61));
    timed(|| check(1))
}

fn nested(levels: usize) -> String {
    let mut body = "[".repeat(levels);
    body.push_str(&"]".repeat(levels));
    format!("{{\"a\": {body}, \"user\": {{\"name\": \"x\"}}}}")
}

fn members(count: usize) -> String {
    let mut body = String::from("{");
    for member in 0..count {
        let _ = write!(body, "\"member-{member}\": {member}, ");
    }
    body.push_str("\"user\": {\"name\": \"x\"}}");
    body
}

/// A classifier with ten rules reads the body.
fn json_body(body: &str) -> Duration {
    let mut rules = String::new();
    for rule in 0..10 {
        let _ = write!(
            rules,
            "label_{rule}: {{extractor: {{json: {{from: request.http.body, pointer: /user/name}}}}}}, "
        );
    }
    let policy = format!(
        "
resources:
  flow_control:
    classifiers:
    - selectors: [{{control_point: checkout}}]
      rules: {{{rules}}}
circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors: [{{control_point: checkout}}]
        in_ports: {{bucket_capacity: {{constant_signal: {{value: 1e15}}}}, fill_amount: {{constant_signal: {{value: 1e15}}}}}}
        parameters: {{interval: 1s, limit_by_label_key: label_0}}
"
    );
    let engine = Engine::builder().policy_text("body.yaml", policy);
    let engine = engine.build().expect("a valid policy");
    let request = HttpRequest {
        method: "POST",
        path: "/",
        body,
        headers: &[("content-type", "application/json")],
        ..HttpRequest::default()
    };
    timed(|| engine.check_http(&HttpInput::new("checkout").request(request)))
}

/// One flow is decided by this many rate limiters.
fn limiters(size: usize) -> Duration {
    let policies = (0..size).fold(Engine::builder(), |builder, policy| {
        builder.policy_text(
            format!("{policy}.yaml"),
            super::rate_limiter(&format!("policy-{policy}"), "checkout"),
        )
    });
    let engine = policies.build().expect("valid policies");
    let params = FlowParams::new().label("user_id", "user-42");
    let check = || engine.check(&CheckInput::new("checkout", &params));
    // The first flow creates the key at each limiter.
    assert!(check().accepted());
    timed(check)
}
