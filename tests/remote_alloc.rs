//! A flow that an Agent decides makes few allocations in the client, from the check to its end and
//! its span. They are counted in the thread of the client, whose runtime also runs the connection and
//! the worker.
#![cfg(feature = "remote")]

#[path = "support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use tokio::runtime::Builder;
use tower_aperture::pb::check::{CheckRequest, CheckResponse};
use tower_aperture::{ApertureClient, FlowDecision, FlowParams, FlowStatus};

use self::support::agent::{FakeAgent, Reply, answer};

/// The most allocations of a flow, those of h2 and Tokio included. A bare call of tonic makes 52.
const MAX_ALLOCATIONS: f64 = 24.0;

/// The same, for a flow that holds a slot, if the ends of several flows are sent in one call.
const MAX_WITH_END: f64 = 30.0;

const LONG: Duration = Duration::from_secs(60);

thread_local! {
    static COUNT: Cell<u32> = const { Cell::new(0) };
}

struct CountingAllocator;

// SAFETY: every call is forwarded to the system's allocator, and the counter neither allocates nor
// unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller upholds the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the same contract.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller upholds the same contract.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Runs flows until all are done, this many at a time.
async fn run_flows(client: &ApertureClient, flows: u32, in_flight: u32) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let client = client.clone();
        tasks.spawn(async move {
            for _ in 0..flows / in_flight {
                let params = FlowParams::new()
                    .label("user_id", "42")
                    .label("tier", "gold");
                let flow = client.start_flow("checkout", params).await;
                assert_eq!(flow.decision(), FlowDecision::Accepted);
                flow.finish(FlowStatus::Ok);
            }
        });
    }
    tasks.join_all().await;
}

/// Returns the allocations of one flow, on average, once the buffers of the connection have grown.
fn allocations_per_flow(
    telemetry: bool,
    in_flight: u32,
    reply: fn(&CheckRequest) -> CheckResponse,
) -> f64 {
    const FLOWS: u32 = 2048;
    let agent = FakeAgent::start();
    agent.on_check(move |request| Reply::Now(reply(request)));
    let client = ApertureClient::builder()
        .address(agent.address())
        .insecure(true)
        .check_timeout(LONG)
        .end_timeout(LONG)
        .telemetry(telemetry)
        .build()
        .expect("a client");
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        run_flows(&client, 2 * FLOWS, in_flight).await;
        let before = COUNT.get();
        run_flows(&client, FLOWS, in_flight).await;
        let allocations = COUNT.get() - before;
        assert!(client.shutdown(LONG).await, "everything is delivered");
        f64::from(allocations) / f64::from(FLOWS)
    })
}

#[test]
fn a_flow_with_its_span_makes_few_allocations() {
    for in_flight in [1, 64] {
        let allocations = allocations_per_flow(true, in_flight, answer::limited);
        assert!(allocations <= MAX_ALLOCATIONS, "{allocations}");
    }
}

#[test]
fn a_span_adds_no_allocation_of_its_own() {
    let without = allocations_per_flow(false, 1, answer::limited);
    let with = allocations_per_flow(true, 1, answer::limited);
    // The buffers of batches, and the export itself.
    assert!(with - without < 1.0, "{with} and {without}");
}

#[test]
fn ends_that_are_sent_together_add_few_allocations() {
    let allocations = allocations_per_flow(true, 64, answer::granted);
    assert!(allocations <= MAX_WITH_END, "{allocations}");
}
