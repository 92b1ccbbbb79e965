//! Accepting or rejecting a flow of a known key allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tower_aperture::engine::Engine;
use tower_aperture::policy::AdaptiveConcurrency;
use tower_aperture::{
    Check, Decider, FlowOutcome, FlowParams, FlowStatus, RejectReason, Ticket, Verdict,
};

struct CountingAllocator;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // The counter is gone while the thread ends.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator, and counting does not allocate.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller upholds the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the same contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller upholds the same contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Returns the number of allocations that `act` makes on this thread.
fn allocations(act: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    act();
    ALLOCATIONS.get() - before
}

/// An engine whose limiter takes the tokens of a label.
fn engine(capacity: u32, parameters: &str) -> Engine {
    engine_with(capacity, parameters, "{tokens_label_key: tokens}")
}

/// An engine whose limiter takes one token for each flow.
fn engine_of_requests(capacity: u32, parameters: &str) -> Engine {
    engine_with(capacity, parameters, "{}")
}

fn engine_with(capacity: u32, parameters: &str, request_parameters: &str) -> Engine {
    let text = format!(
        "circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors: [{{control_point: here}}]
        in_ports:
          bucket_capacity: {{constant_signal: {{value: {capacity}}}}}
          fill_amount: {{constant_signal: {{value: 1}}}}
        parameters: {{interval: 3600s{parameters}}}
        request_parameters: {request_parameters}
"
    );
    let engine = Engine::builder().policy_text("policy", text).build();
    engine.expect("the policy is valid")
}

fn decide(engine: &Engine, params: &FlowParams<'_>) -> bool {
    match engine.decide("here", params) {
        Check::Ready(Verdict::Accepted(ticket)) => {
            ticket.end(FlowOutcome::new(FlowStatus::Ok));
            true
        }
        Check::Ready(Verdict::Rejected(denial, ticket)) => {
            assert_eq!(denial.reason, RejectReason::RateLimited);
            ticket.end(FlowOutcome::new(FlowStatus::Unset));
            false
        }
        _ => panic!("an engine without queues decides at once"),
    }
}

/// Parameters of rate limiters.
const PARAMETERS: [&str; 3] = [
    "",
    ", limit_by_label_key: user",
    ", limit_by_label_key: user, lazy_sync: {enabled: true, num_sync: 4}",
];

#[test]
fn a_flow_of_a_known_key_is_accepted_without_allocation() {
    for parameters in PARAMETERS {
        let engine = engine_of_requests(1_000_000, parameters);
        let params = FlowParams::new().label("user", "42").label("tokens", "1.5");
        assert!(
            allocations(|| assert!(decide(&engine, &params))) > 0,
            "a new key allocates"
        );
        let allocated = allocations(|| {
            for _ in 0..1000 {
                assert!(decide(&engine, &params));
            }
        });
        assert_eq!(allocated, 0, "{parameters}");
    }
}

/// The record of its tokens, with the key, which may be settled until the end.
#[test]
fn a_flow_of_a_limiter_of_tokens_allocates_once_or_twice_with_a_long_key() {
    for (user, expected) in [("42", 1), (&"4".repeat(36), 1), (&"4".repeat(37), 2)] {
        let engine = engine(1_000_000, PARAMETERS[1]);
        let params = FlowParams::new().label("user", user).label("tokens", "1.5");
        assert!(decide(&engine, &params));
        let allocated = allocations(|| assert!(decide(&engine, &params)));
        assert_eq!(allocated, expected, "{user}");
    }
}

#[test]
fn a_flow_of_a_known_key_is_rejected_without_allocation() {
    for parameters in PARAMETERS {
        let engine = engine(1, parameters);
        let params = FlowParams::new().label("user", "42");
        assert!(decide(&engine, &params));
        let allocated = allocations(|| {
            for _ in 0..1000 {
                assert!(!decide(&engine, &params));
            }
        });
        assert_eq!(allocated, 0, "{parameters}");
    }
}

fn slots(kind: &str, most: u32, adaptive: bool) -> Engine {
    let slots = "{max_inflight_duration: 3600s, limit_by_label_key: user}";
    let parameters = match kind {
        "concurrency_limiter" => format!("parameters: {slots}"),
        _ => format!("concurrency_limiter: {slots}"),
    };
    let text = format!(
        "circuit:
  components:
  - flow_control:
      {kind}:
        selectors: [{{control_point: here}}]
        in_ports: {{max_concurrency: {{constant_signal: {{value: {most}}}}}}}
        {parameters}
"
    );
    let mut builder = Engine::builder().policy_text("policy", text);
    if adaptive {
        let settings = AdaptiveConcurrency::vegas().initial(most);
        builder = builder.adaptive_limit("policy", "root.0", settings);
    }
    builder.build().expect("the policy is valid")
}

#[test]
fn a_slot_is_taken_and_returned_without_allocation() {
    for adaptive in [false, true] {
        take_and_return_slots(&slots("concurrency_limiter", 1000, adaptive));
    }
}

fn take_and_return_slots(engine: &Engine) {
    let params = FlowParams::new().label("user", "42");
    let hold = |many: usize| -> Vec<_> {
        (0..many)
            .map(|_| match engine.decide("here", &params) {
                Check::Ready(Verdict::Accepted(ticket)) => ticket,
                _ => panic!("a slot is free"),
            })
            .collect()
    };
    drop(hold(500));
    let allocated = allocations(|| {
        let tickets = hold(500);
        for mut ticket in tickets {
            ticket.response_started(FlowOutcome::new(FlowStatus::Ok));
            ticket.end(FlowOutcome::new(FlowStatus::Ok));
        }
    });
    // The list of tickets is the only allocation.
    assert_eq!(allocated, 1);
}

/// A policy of one component, in YAML's flow style.
fn engine_of(component: &str) -> Engine {
    let text = format!("circuit: {{components: [{{flow_control: {{{component}}}}}]}}");
    let engine = Engine::builder().policy_text("policy", text).build();
    engine.expect("the policy is valid")
}

#[test]
fn a_scheduler_with_tokens_or_a_slot_at_hand_allocates_nothing_and_nor_does_a_sampler() {
    const SCHEDULER: &str = "scheduler: {workloads: [{label_matcher: {match_labels: {user: '42'}}, \
                             parameters: {priority: 7}}], fairness_label_key: user}";
    let components = [
        format!(
            "concurrency_scheduler: {{selectors: [{{control_point: here}}], in_ports: \
             {{max_concurrency: {{constant_signal: {{value: 1}}}}}}, concurrency_limiter: \
             {{max_inflight_duration: 3600s, limit_by_label_key: user}}, {SCHEDULER}}}"
        ),
        format!(
            "quota_scheduler: {{selectors: [{{control_point: here}}], in_ports: {{bucket_capacity: \
             {{constant_signal: {{value: 1000000}}}}, fill_amount: {{constant_signal: {{value: \
             1}}}}}}, rate_limiter: {{interval: 1s, limit_by_label_key: user}}, {SCHEDULER}}}"
        ),
        "sampler: {in_ports: {accept_percentage: {constant_signal: {value: 100}}}, parameters: \
         {session_label_key: user, selectors: [{control_point: here}]}}"
            .to_owned(),
    ];
    for component in components {
        let engine = engine_of(&component);
        let params = FlowParams::new().label("user", "42");
        assert!(decide(&engine, &params));
        let allocated = allocations(|| {
            for _ in 0..1000 {
                assert!(decide(&engine, &params));
            }
        });
        assert_eq!(allocated, 0, "{component}");
    }
}

#[test]
fn flux_meters_and_classifiers_allocate_nothing() {
    let text = |control_point: &str| {
        format!(
            "resources:
  flow_control:
    flux_meters:
      {control_point}-latency: {{selectors: [{{control_point: {control_point}}}]}}
    classifiers:
    - selectors: [{{control_point: {control_point}}}]
      rules: {{method: {{extractor: {{from: request.http.method}}}}}}
circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors: [{{control_point: {control_point}}}]
        in_ports:
          bucket_capacity: {{constant_signal: {{value: 1000000}}}}
          fill_amount: {{constant_signal: {{value: 1}}}}
        parameters: {{interval: 1s}}
"
        )
    };
    // Components of other control points only, and of the flow's own.
    for control_point in ["elsewhere", "here"] {
        let engine = Engine::builder()
            .policy_text("others", text("there"))
            .policy_text("policy", text(control_point))
            .build()
            .expect("the policies are valid");
        let params = FlowParams::new().label("user", "42");
        assert!(decide(&engine, &params));
        let allocated = allocations(|| {
            for _ in 0..1000 {
                assert!(decide(&engine, &params));
            }
        });
        assert_eq!(allocated, 0, "{control_point}");
    }
}

#[test]
fn a_flow_that_no_limiter_decides_allocates_nothing_after_the_first() {
    // The flow lacks the label of the limiter, or no policy selects its control point.
    let by_user = engine(1, PARAMETERS[1]);
    let elsewhere = Engine::builder()
        .build()
        .expect("an engine without policies is valid");
    for engine in [by_user, elsewhere] {
        let params = FlowParams::new().label("plan", "free");
        assert!(decide(&engine, &params));
        let allocated = allocations(|| {
            for _ in 0..1000 {
                assert!(decide(&engine, &params));
            }
        });
        assert_eq!(allocated, 0);
        assert_eq!(engine.stats().undecided, 1001);
    }
}
