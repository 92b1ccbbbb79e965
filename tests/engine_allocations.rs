//! Letting a known key in allocates nothing, and turning it away does not either.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tower_aperture::engine::Engine;
use tower_aperture::{
    Check, Decider, FlowOutcome, FlowParams, FlowStatus, RejectReason, Ticket, Verdict,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // The thread may be ending.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: everything is left to the system's allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What it allocates on this thread.
fn allocations(act: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    act();
    ALLOCATIONS.get() - before
}

fn engine(capacity: u32, parameters: &str) -> Engine {
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
        request_parameters: {{tokens_label_key: tokens}}
"
    );
    let engine = Engine::builder().policy_text("policy", text).build();
    engine.expect("the policy is right")
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
        _ => panic!("an engine always answers at once"),
    }
}

const WAYS: [&str; 3] = [
    "",
    ", limit_by_label_key: user",
    ", limit_by_label_key: user, lazy_sync: {enabled: true, num_sync: 4}",
];

#[test]
fn a_known_key_is_let_in_without_an_allocation() {
    for way in WAYS {
        let engine = engine(1_000_000, way);
        let params = FlowParams::new().label("user", "42").label("tokens", "1.5");
        assert!(
            allocations(|| assert!(decide(&engine, &params))) > 0,
            "a new key"
        );
        let known = allocations(|| {
            for _ in 0..1000 {
                assert!(decide(&engine, &params));
            }
        });
        assert_eq!(known, 0, "{way}");
    }
}

#[test]
fn a_known_key_is_turned_away_without_an_allocation() {
    for way in WAYS {
        let engine = engine(1, way);
        let params = FlowParams::new().label("user", "42");
        assert!(decide(&engine, &params));
        let known = allocations(|| {
            for _ in 0..1000 {
                assert!(!decide(&engine, &params));
            }
        });
        assert_eq!(known, 0, "{way}");
    }
}

fn slots(kind: &str, most: u32) -> Engine {
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
    let engine = Engine::builder().policy_text("policy", text).build();
    engine.expect("the policy is right")
}

#[test]
fn a_slot_is_taken_and_given_back_without_an_allocation() {
    let engine = slots("concurrency_limiter", 1000);
    let params = FlowParams::new().label("user", "42");
    let hold = |many: usize| -> Vec<_> {
        (0..many)
            .map(|_| match engine.decide("here", &params) {
                Check::Ready(Verdict::Accepted(ticket)) => ticket,
                _ => panic!("there is room"),
            })
            .collect()
    };
    drop(hold(500));
    let known = allocations(|| {
        let tickets = hold(500);
        for ticket in tickets {
            ticket.end(FlowOutcome::new(FlowStatus::Ok));
        }
    });
    // That of the list of tickets.
    assert_eq!(known, 1);
}

#[test]
fn a_scheduler_with_a_free_slot_allocates_nothing() {
    let engine = slots("concurrency_scheduler", 1);
    let params = FlowParams::new().label("user", "42");
    assert!(decide(&engine, &params));
    let known = allocations(|| {
        for _ in 0..1000 {
            assert!(decide(&engine, &params));
        }
    });
    assert_eq!(known, 0);
}

#[test]
fn meters_and_classifiers_cost_no_allocation() {
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
    // Those of elsewhere, and its own.
    for control_point in ["elsewhere", "here"] {
        let engine = Engine::builder()
            .policy_text("others", text("there"))
            .policy_text("policy", text(control_point))
            .build()
            .expect("the policies are right");
        let params = FlowParams::new().label("user", "42");
        assert!(decide(&engine, &params));
        let known = allocations(|| {
            for _ in 0..1000 {
                assert!(decide(&engine, &params));
            }
        });
        assert_eq!(known, 0, "{control_point}");
    }
}

#[test]
fn a_flow_that_nothing_limits_costs_no_allocation_after_the_first_one() {
    // Its limiter lacks a label, or no policy selects where it is.
    let by_user = engine(1, WAYS[1]);
    let elsewhere = Engine::builder()
        .build()
        .expect("an engine without policies");
    for engine in [by_user, elsewhere] {
        let params = FlowParams::new().label("plan", "free");
        assert!(decide(&engine, &params));
        let known = allocations(|| {
            for _ in 0..1000 {
                assert!(decide(&engine, &params));
            }
        });
        assert_eq!(known, 0);
        assert_eq!(engine.stats().undecided, 1001);
    }
}
