//! The result cache and the global cache: the values that they keep, for how long, and within which
//! bounds.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use tower_aperture::cache::CacheLookup;
use tower_aperture::engine::{CacheEntry, CheckInput, Engine, ManualClock};
use tower_aperture::{Check, Decider, FlowParams, Ticket, Verdict};

use crate::support::*;

const TOO_LARGE: &str = "entry too large for the configured table size";

fn engine_and_clock() -> (Engine, ManualClock) {
    let clock = ManualClock::new();
    let engine = Engine::builder().clock(clock.clone()).build();
    (engine.expect("an engine without policies is valid"), clock)
}

fn store(engine: &Engine, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), String> {
    let entry = CacheEntry::new(key, value).ttl(ttl);
    let change = engine.cache_upsert("here", Some(entry), []);
    let result = change.result.expect("the key is not empty");
    result.map_err(|refusal| refusal.to_string())
}

fn find(engine: &Engine, key: &str) -> Option<Vec<u8>> {
    let found = engine.cache_lookup("here", key, []);
    found.result_value().map(|value| value.to_vec())
}

#[test]
fn a_cached_value_is_found_until_its_ttl_ends() {
    for (ttl, last_found, first_missing) in [
        (Some(Duration::from_millis(1500)), 1499, 1500),
        (Some(Duration::from_micros(1999)), 0, 1),
        (None, 604_799_999, 604_800_000),
        (Some(Duration::ZERO), 604_799_999, 604_800_000),
        (Some(Duration::MAX), 604_799_999, 604_800_000),
    ] {
        let (engine, clock) = engine_and_clock();
        store(&engine, "k", b"v", ttl).expect("the entry fits");
        clock.advance_to(Duration::from_millis(last_found));
        assert!(find(&engine, "k").is_some(), "{ttl:?}");
        clock.advance_to(Duration::from_millis(first_missing));
        assert!(find(&engine, "k").is_none(), "{ttl:?}");
    }
}

#[test]
fn a_value_with_a_ttl_below_one_millisecond_replaces_the_old_one_and_is_never_found() {
    let (engine, _) = engine_and_clock();
    store(&engine, "k", b"old", None).expect("the entry fits");
    store(&engine, "k", b"new", Some(Duration::from_micros(999))).expect("the entry fits");
    assert_eq!(find(&engine, "k"), None);
}

#[test]
fn result_cache_keys_are_limited_in_the_form_that_an_agent_stores() {
    let (engine, _) = engine_and_clock();
    let key = |overhead: &str| "k".repeat(255 - overhead.len());
    let result = key("@controlpoint:here/type:bytes/key:");
    store(&engine, &result, b"v", None).expect("a key of 255 bytes is valid");
    assert!(find(&engine, &result).is_some());

    let long = format!("{result}k");
    assert_eq!(
        store(&engine, &long, b"v", None),
        Err("key too large".into())
    );
    let missed = engine.cache_lookup("here", &long, []);
    assert_eq!(missed.result, Some(Ok(None)));
    // The global cache only puts `@global` before the key, so the same key is short enough there.
    let change = engine.cache_upsert("", None, [CacheEntry::new(&long, b"v")]);
    assert_eq!(change.global[0].1, Ok(()));
}

#[test]
fn row_27_an_entry_as_large_as_the_table_is_too_large() {
    let (engine, _) = engine_and_clock();
    let overhead = "@global/type:bytes/key:k".len() + 29;
    let global = |size: usize| {
        let value = vec![7; size];
        let change = engine.cache_upsert("", None, [CacheEntry::new("k", &value)]);
        let (_, result) = change
            .global
            .into_iter()
            .next()
            .expect("the call had one key");
        result.map_err(|refusal| refusal.to_string())
    };
    assert_eq!(global((1 << 20) - 1 - overhead), Ok(()));
    assert_eq!(global((1 << 20) - overhead), Err(TOO_LARGE.into()));
    assert_eq!(global((1 << 20) + 1 - overhead), Err(TOO_LARGE.into()));
    // A refused entry leaves the stored one in place.
    assert!(
        engine
            .cache_lookup("", "", ["k"])
            .global_value("k")
            .is_some()
    );
}

#[test]
fn all_entries_together_stay_within_the_bound() {
    let bound = 256 << 10;
    let engine = Engine::builder()
        .cache_bytes(bound)
        .build()
        .expect("the engine is valid");
    let value = vec![1; 1000];
    for number in 0..2000 {
        let key = format!("key-{number}");
        store(&engine, &key, &value, None).expect("the entry fits");
        assert!(find(&engine, &key).is_some(), "the latest entry is found");
    }
    let kept = (0..2000).filter(|number| find(&engine, &format!("key-{number}")).is_some());
    let kept = kept.count();
    assert!(kept * value.len() <= bound && kept > 100, "{kept}");

    let small = Engine::builder()
        .cache_bytes(1000)
        .build()
        .expect("the engine is valid");
    assert_eq!(store(&small, "k", &value, None), Err(TOO_LARGE.into()));
    let none = Engine::builder()
        .cache_bytes(0)
        .build()
        .expect("the engine is valid");
    assert_eq!(store(&none, "k", b"", None), Err(TOO_LARGE.into()));
}

#[test]
fn an_accepted_entry_of_any_size_is_kept() {
    for bound in [2 << 20, 4 << 20, 64 << 20, usize::MAX] {
        let engine = Engine::builder()
            .cache_bytes(bound)
            .build()
            .expect("the engine is valid");
        for number in 0..50 {
            let value = vec![1; (1 << 20) - 100];
            let key = format!("k{number}");
            store(&engine, &key, &value, None).expect("the entry fits");
            assert_eq!(
                find(&engine, &key).map(|value| value.len()),
                Some(value.len())
            );
        }
    }
}

#[test]
fn only_accepted_flows_look_up_the_caches() {
    let (engine, _) = Limiter::new(1.0, 0.0).engine();
    store(&engine, "k", b"v", None).expect("the entry fits");
    let params = FlowParams::new()
        .result_cache_key("k")
        .global_cache_key("g");
    let report = engine.check(&CheckInput::new(HERE, &params));
    let found = report.cache_lookup.expect("the flow was accepted");
    assert_eq!(
        found.result_value().map(|value| &value[..]),
        Some(&b"v"[..])
    );
    assert_eq!(found.global("g"), Some(&Ok(None)));

    let report = engine.check(&CheckInput::new(HERE, &params));
    assert!(!report.accepted() && report.cache_lookup.is_none());
}

#[test]
fn a_flow_with_a_cached_result_costs_no_quota() {
    let text = "
circuit:
  components:
  - flow_control:
      quota_scheduler:
        selectors: [{control_point: here}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 1}}
          fill_amount: {constant_signal: {value: 0}}
        rate_limiter: {interval: 1s}
";
    let engine = Engine::builder().policy_text("policy", text).build();
    let engine = engine.expect("the policy is valid");
    store(&engine, "k", b"v", None).expect("the entry fits");
    engine.cache_upsert("", None, [CacheEntry::new("k", b"v")]);
    let check_with = |params: &FlowParams<'_>| engine.check(&CheckInput::new("here", params));

    let hit = FlowParams::new().result_cache_key("k");
    for _ in 0..3 {
        let report = check_with(&hit);
        assert!(report.accepted() && report.limiter_decisions.is_empty());
        assert!(matches!(
            engine.decide("here", &hit),
            Check::Ready(Verdict::Accepted(_))
        ));
    }
    // A flow with a miss, or with a hit in the global cache only, costs quota.
    assert!(check_with(&FlowParams::new().result_cache_key("other")).accepted());
    assert!(!check_with(&FlowParams::new().global_cache_key("k")).accepted());
    assert!(check_with(&hit).accepted());
}

#[test]
fn the_ticket_returns_its_cache_lookup_once() {
    let (engine, _) = engine_and_clock();
    store(&engine, "k", b"v", None).expect("the entry fits");
    let lookup = |params: FlowParams<'_>| -> (Option<CacheLookup>, Option<CacheLookup>) {
        let Check::Ready(Verdict::Accepted(mut ticket)) = engine.decide("here", &params) else {
            panic!("no policy limits the flow");
        };
        (ticket.take_cache_lookup(), ticket.take_cache_lookup())
    };
    let (first, second) = lookup(FlowParams::new().result_cache_key("k"));
    assert!(first.is_some_and(|found| found.result_value().is_some()));
    assert!(second.is_none());
    assert_eq!(lookup(FlowParams::new()), (None, None));
}

#[test]
fn debug_output_shows_neither_cache_keys_nor_values() {
    let (engine, _) = engine_and_clock();
    store(&engine, "secret-key", b"secret-value", None).expect("the entry fits");
    let found = engine.cache_lookup("here", "secret-key", ["secret-too"]);
    let entry = CacheEntry::new("secret-key", b"secret-value");
    let shown = format!("{engine:?} {found:?} {entry:?}");
    assert!(!shown.contains("secret"), "{shown}");
    assert!(shown.contains("hit") && shown.contains("miss"), "{shown}");
}

#[test]
fn threads_find_the_values_of_other_threads() {
    let (engine, _) = engine_and_clock();
    thread::scope(|scope| {
        for thread in 0..4 {
            let engine = &engine;
            scope.spawn(move || {
                for number in 0..500 {
                    let key = format!("{thread}-{number}");
                    store(engine, &key, key.as_bytes(), None).expect("the entry fits");
                    store(engine, "shared", key.as_bytes(), None).expect("the entry fits");
                    assert!(find(engine, "shared").is_some());
                }
            });
        }
    });
    for thread in 0..4 {
        for number in 0..500 {
            let key = format!("{thread}-{number}");
            assert_eq!(find(&engine, &key).as_deref(), Some(key.as_bytes()));
        }
    }
}

/// An operation on a cache, or a pause in microseconds. The TTL is in units of 10 µs.
#[derive(Clone, Debug)]
enum Operation {
    Store(u8, u8, u64),
    Delete(u8),
    Wait(u64),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        (0..6_u8, any::<u8>(), 0..3000_u64)
            .prop_map(|(key, value, ttl)| Operation::Store(key, value, ttl)),
        (0..6_u8).prop_map(Operation::Delete),
        (0..2000_u64).prop_map(Operation::Wait),
    ];
    prop::collection::vec(operation, 1..40)
}

proptest! {
    /// Keys with an even number are in the result cache, the others in the global cache. Times of
    /// the model are in microseconds, and entries expire at whole milliseconds.
    #[test]
    fn the_caches_behave_like_maps_whose_entries_expire(operations in operations()) {
        let (engine, clock) = engine_and_clock();
        let (mut model, mut now) = (HashMap::new(), 0_u64);
        for operation in operations {
            match operation {
                Operation::Store(key, value, ttl) => {
                    let ttl = (ttl > 0).then(|| Duration::from_micros(ttl * 10));
                    let name = format!("k{key}");
                    let value = [value];
                    let entry = CacheEntry::new(&name, &value).ttl(ttl);
                    if key % 2 == 0 {
                        engine.cache_upsert("here", Some(entry), []);
                    } else {
                        engine.cache_upsert("", None, [entry]);
                    }
                    let until = ttl.map_or(u64::MAX, |ttl| {
                        let micros = ttl.as_micros() as u64;
                        if micros < 1000 { 0 } else { (now + micros) / 1000 }
                    });
                    model.insert(key, (value, until));
                }
                Operation::Delete(key) => {
                    let name = format!("k{key}");
                    if key % 2 == 0 {
                        engine.cache_delete("here", &name, []);
                    } else {
                        engine.cache_delete("", "", [&*name]);
                    }
                    model.remove(&key);
                }
                Operation::Wait(micros) => {
                    now += micros;
                    clock.advance(Duration::from_micros(micros));
                }
            }
            for key in 0..6_u8 {
                let name = format!("k{key}");
                let found = if key % 2 == 0 {
                    engine.cache_lookup("here", &name, []).result_value().cloned()
                } else {
                    engine.cache_lookup("", "", [&*name]).global_value(&name).cloned()
                };
                let expected = model
                    .get(&key)
                    .filter(|(_, until)| *until > now / 1000)
                    .map(|(value, _)| value.to_vec());
                prop_assert_eq!(found.map(|value| value.to_vec()), expected);
            }
        }
    }
}
