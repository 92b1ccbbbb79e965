//! Random sequences: the store decides as the engine does in process, to the token.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aperture_core::FlowParams;
use aperture_engine::engine::shared::{BucketSettings, SlotsOutcome};
use aperture_engine::engine::{CheckInput, Clock, Engine, LimiterDetails, RequestId, SlotRef};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use crate::support::{Server, enter_operation, enter_with, key, leave, take};

/// Returns a key that no other case has.
fn new_key() -> aperture_engine::engine::shared::StoreKey {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    key(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A clock that each case sets back to zero, because each has an engine and keys of its own.
#[derive(Clone, Debug, Default)]
struct CaseClock(Arc<AtomicU64>);

impl CaseClock {
    fn advance(&self, step: Duration) {
        self.0.fetch_add(step.as_nanos() as u64, Ordering::Relaxed);
    }

    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl Clock for CaseClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Runs at most 1000 cases, because each one is many commands to a server.
fn runner() -> TestRunner {
    let config = ProptestConfig::default();
    TestRunner::new(ProptestConfig {
        cases: config.cases.min(1000),
        failure_persistence: None,
        ..config
    })
}

fn settings() -> impl Strategy<Value = BucketSettings> {
    let capacity = prop_oneof![Just(1.0), Just(2.0), Just(10.0), 0.1..20.0, -3.0..1.0];
    let fill = prop_oneof![Just(1.0), Just(2.0), Just(0.0), 0.01..10.0, -2.0..0.0];
    let interval = prop_oneof![
        Just(1_000_000_000_u64),
        1..100_u64,
        1_000_000..10_000_000_000_u64,
    ];
    let idle = prop_oneof![Just(7_200_000_000_000_u64), 1_000_000..20_000_000_000_u64];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (capacity, fill, interval, idle, flags).prop_map(|(capacity, fill, interval, idle, flags)| {
        let (continuous, delayed, upstream) = flags;
        BucketSettings {
            capacity,
            fill,
            interval: Duration::from_nanos(interval),
            continuous,
            delayed,
            upstream,
            max_idle: Some(Duration::from_nanos(idle)),
        }
    })
}

/// A step of the clock, as a share of the interval, and a number of tokens.
fn steps() -> impl Strategy<Value = Vec<(Duration, f64)>> {
    let step = prop_oneof![
        3 => Just(0_u64),
        3 => 0..3_000_000_000_u64,
        2 => (0..20_u64).prop_map(|n| n * 500_000_000),
        1 => 0..9_000_000_000_000_000_u64,
    ];
    let step = step.prop_map(Duration::from_nanos);
    let tokens = prop_oneof![
        4 => Just(1.0),
        2 => Just(2.0),
        1 => Just(0.0),
        1 => Just(-1.0),
        2 => -2.0..12.0,
        1 => Just(1e10),
    ];
    prop::collection::vec((step, tokens), 1..25)
}

fn bucket_policy(bucket: &BucketSettings) -> String {
    let nanos = |time: Duration| format!("{}.{:09}s", time.as_secs(), time.subsec_nanos());
    format!(
        "
circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors: [{{control_point: here}}]
        in_ports:
          bucket_capacity: {{constant_signal: {{value: {:?}}}}}
          fill_amount: {{constant_signal: {{value: {:?}}}}}
        parameters:
          interval: {}
          continuous_fill: {}
          delay_initial_fill: {}
          max_idle_time: {}
        request_parameters: {{tokens_label_key: tokens}}
",
        bucket.capacity,
        bucket.fill,
        nanos(bucket.interval),
        bucket.continuous,
        bucket.delayed,
        nanos(bucket.max_idle.unwrap_or_default()),
    )
}

/// Compares a wait in 64 bits of nanoseconds with one that was a double. One of more than 200 years
/// may be saturated.
fn same_wait(one: Duration, other: Duration) -> bool {
    let exact = Duration::from_nanos(1 << 53);
    let ages = Duration::from_secs(200 * 365 * 86_400);
    let nearly = || one.abs_diff(other) < one / 1_000_000_000;
    one == other || one > exact && nearly() || one > ages && other > ages
}

#[test]
fn buckets_decide_as_those_of_an_engine_to_the_token() {
    let Some(server) = Server::start() else {
        return;
    };
    let clock = CaseClock::default();
    let store = server.builder().clock(Arc::new(clock.clone())).build();
    let store = store.expect("valid settings");
    let mut runner = runner();
    let checked = runner.run(&(settings(), steps()), |(bucket, steps)| {
        clock.reset();
        let engine = Engine::builder()
            .policy_text("bucket.yaml", bucket_policy(&bucket))
            .clock(clock.clone())
            .upstream_buckets(bucket.upstream)
            .build()
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        let key = new_key();
        for (step, tokens) in steps {
            clock.advance(step);
            let params = FlowParams::new().label("tokens", tokens.to_string());
            let report = engine.check(&CheckInput::new("here", &params));
            let expected = &report.limiter_decisions[0];
            let LimiterDetails::RateLimiter {
                tokens: of_bucket, ..
            } = &expected.details
            else {
                return Err(TestCaseError::fail("a rate limiter decides"));
            };
            let outcome = take(&store, key, bucket, tokens);
            prop_assert_eq!(outcome.granted, !expected.dropped, "{:?}", outcome);
            prop_assert!(
                same_wait(outcome.wait, expected.wait_time),
                "{:?} {:?}",
                outcome,
                expected
            );
            prop_assert_eq!(outcome.remaining, of_bucket.remaining);
            prop_assert_eq!(outcome.current, of_bucket.current);
            let too_big = !bucket.upstream && tokens > bucket.capacity;
            prop_assert_eq!(outcome.unsatisfiable, too_big && expected.dropped);
        }
        Ok(())
    });
    checked.expect("the store decides as the engine");
}

#[derive(Clone, Debug)]
enum SlotStep {
    Advance(Duration),
    Enter(f64),
    /// Returns one of the slots that were granted.
    Leave(prop::sample::Index),
}

fn slot_steps() -> impl Strategy<Value = Vec<SlotStep>> {
    let millis = (0..4_u64).prop_map(|n| SlotStep::Advance(Duration::from_millis(n * 500)));
    let nanos = (0..3_u64).prop_map(|n| SlotStep::Advance(Duration::from_nanos(n)));
    // Quarters add up exactly on both sides.
    let quarters = (-8..20_i32).prop_map(|quarters| f64::from(quarters) / 4.0);
    let tokens = prop_oneof![3 => Just(1.0), 1 => quarters, 1 => Just(1e6)];
    let step = prop_oneof![
        2 => millis,
        1 => nanos,
        4 => tokens.prop_map(SlotStep::Enter),
        2 => any::<prop::sample::Index>().prop_map(SlotStep::Leave),
    ];
    prop::collection::vec(step, 1..30)
}

#[test]
fn slots_are_granted_as_by_an_engine() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut runner = runner();
    let clock = CaseClock::default();
    let store = server.builder().clock(Arc::new(clock.clone())).build();
    let store = store.expect("valid settings");
    let checked = runner.run(&(0.5..6.0, slot_steps()), |(capacity, steps)| {
        let policy = format!(
            "
circuit:
  components:
  - flow_control:
      concurrency_limiter:
        selectors: [{{control_point: here}}]
        in_ports:
          max_concurrency: {{constant_signal: {{value: {capacity:?}}}}}
        parameters: {{max_inflight_duration: 1s}}
        request_parameters: {{tokens_label_key: tokens}}
"
        );
        clock.reset();
        let engine = Engine::builder()
            .policy_text("slots.yaml", policy)
            .clock(clock.clone())
            .build()
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        let key = new_key();
        let mut granted: Vec<(RequestId, SlotRef)> = Vec::new();
        for step in steps {
            match step {
                SlotStep::Advance(step) => clock.advance(step),
                SlotStep::Enter(tokens) => {
                    let params = FlowParams::new().label("tokens", tokens.to_string());
                    let report = engine.check(&CheckInput::new("here", &params).expect_end(true));
                    let expected = &report.limiter_decisions[0];
                    let LimiterDetails::ConcurrencyLimiter {
                        tokens: of_slots, ..
                    } = &expected.details
                    else {
                        return Err(TestCaseError::fail("a concurrency limiter decides"));
                    };
                    let mut operation = enter_operation(key, capacity);
                    operation.tokens = tokens;
                    operation.lifetime = Duration::from_secs(1);
                    let SlotsOutcome {
                        granted: accepted,
                        current,
                        ..
                    } = enter_with(&store, operation);
                    prop_assert_eq!(accepted, !expected.dropped);
                    prop_assert_eq!(current, of_slots.current);
                    if let (true, Some(slot)) = (accepted, report.slots().pop()) {
                        granted.push((operation.id, slot));
                    }
                }
                SlotStep::Leave(_) if granted.is_empty() => {}
                SlotStep::Leave(index) => {
                    let (id, slot) = granted.swap_remove(index.index(granted.len()));
                    let returned = engine.flow_end(&[slot], None);
                    let held = leave(&store, key, id);
                    prop_assert_eq!(held, returned[0].returned, "{:?}", returned);
                    prop_assert!(!leave(&store, key, id));
                }
            }
        }
        Ok(())
    });
    checked.expect("the store decides as the engine");
}
