//! Lookups and changes, without a flow, in caches that engines share.

use tower_aperture::cache::{CacheChange, CacheLookup, CacheRefusal, CacheValue};
use tower_aperture::engine::{CacheEntry, Clock, PendingCacheChange, PendingCacheLookup};

use super::store::{DEADLINE, Replies};
use super::*;

/// Returns a store with caches, its clock, and engines without policies that share it.
fn engines(count: usize, replies: Replies) -> (FakeStore, ManualClock, Vec<SharedEngine>) {
    let clock = ManualClock::new();
    let store = FakeStore::with_caches(&clock, replies);
    let engines = (0..count).map(|_| engine(&store.node(), &clock, &[]));
    let engines = engines.collect();
    (store, clock, engines)
}

fn found(mut pending: PendingCacheLookup) -> CacheLookup {
    poll(&mut pending).expect("it is over")
}

fn changed(mut pending: PendingCacheChange) -> CacheChange {
    poll(&mut pending).expect("it is over")
}

fn set(engine: &SharedEngine, entry: CacheEntry<'_>) -> Result<(), String> {
    let change = changed(engine.start_cache_upsert(HERE, Some(entry), []));
    let result = change.result.expect("the key is not empty");
    result.map_err(|refusal| refusal.to_string())
}

fn get(engine: &SharedEngine, key: &str) -> CacheValue {
    let found = found(engine.start_cache_lookup(HERE, key, []));
    found.result.expect("the key is not empty")
}

fn value(text: &str) -> CacheValue {
    Ok(Some(text.to_owned().into()))
}

#[test]
fn a_value_of_one_engine_is_found_by_another_and_deleted_by_a_third() {
    let (_, _, engines) = engines(3, Replies::AtOnce);
    let [first, second, third] = &engines[..] else {
        panic!("three engines")
    };
    let entry = CacheEntry::new("k", b"ann");
    let global = ["g", "h"].map(|key| CacheEntry::new(key, b"for all"));
    let change = changed(first.start_cache_upsert(HERE, Some(entry), global));
    assert_eq!(change.result, Some(Ok(())));
    assert_eq!(change.global.len(), 2);

    let lookup = || found(second.start_cache_lookup(HERE, "k", ["g", "h", "g", "other"]));
    let before = lookup();
    assert_eq!(before.result, Some(value("ann")));
    let globals = ["g", "h", "other"].map(|key| before.global(key).cloned());
    assert_eq!(
        globals,
        [
            Some(value("for all")),
            Some(value("for all")),
            Some(Ok(None))
        ]
    );
    assert_eq!(before.global.len(), 3, "each key once");

    let change = changed(third.start_cache_delete(HERE, "k", ["g"]));
    assert_eq!((change.result, change.global.len()), (Some(Ok(())), 1));
    let after = lookup();
    assert_eq!(after.result, Some(Ok(None)));
    assert_eq!(after.global("g"), Some(&Ok(None)));
    assert_eq!(after.global("h"), Some(&value("for all")));
}

#[test]
fn control_points_and_the_global_cache_have_keys_of_their_own() {
    let (store, _, engines) = engines(1, Replies::AtOnce);
    let engine = &engines[0];
    for (control_point, text) in [("a", "1"), ("b", "2")] {
        let entry = CacheEntry::new("k", text.as_bytes());
        let _ = changed(engine.start_cache_upsert(control_point, Some(entry), []));
    }
    let _ = changed(engine.start_cache_upsert("", None, [CacheEntry::new("k", b"3")]));
    assert_eq!(store.fake_caches().state().values.len(), 3);
    let of = |point: &str| found(engine.start_cache_lookup(point, "k", ["k"]));
    assert_eq!(of("a").result, Some(value("1")));
    assert_eq!(of("b").result, Some(value("2")));
    assert_eq!(of("b").global("k"), Some(&value("3")));
}

#[test]
fn values_expire_by_the_clock_of_the_store() {
    let store_clock = ManualClock::new();
    let store = FakeStore::with_caches(&store_clock, Replies::AtOnce);
    let clock = ManualClock::new();
    let engine = engine(&store, &clock, &[]);
    let ttl = Some(Duration::from_secs(60));
    set(&engine, CacheEntry::new("k", b"v").ttl(ttl)).expect("the entry fits");
    clock.advance(Duration::from_secs(3600));
    assert_eq!(get(&engine, "k"), value("v"));
    store_clock.advance(Duration::from_secs(60));
    assert_eq!(get(&engine, "k"), Ok(None));
    // As in process: seven days at most, and nothing below a millisecond.
    set(&engine, CacheEntry::new("k", b"old")).expect("the entry fits");
    let kept = store.fake_caches().state().values.values().next().cloned();
    let expires = kept.expect("one value").1;
    assert_eq!(expires, store_clock.now() + Duration::from_secs(604_800));
    let ttl = Some(Duration::from_micros(999));
    set(&engine, CacheEntry::new("k", b"new").ttl(ttl)).expect("the entry fits");
    assert_eq!(get(&engine, "k"), Ok(None));
}

#[test]
fn keys_and_values_have_the_limits_of_caches_in_process() {
    let (store, _, engines) = engines(1, Replies::AtOnce);
    let engine = &engines[0];
    let long = "k".repeat(256);
    let large = vec![7; (1 << 20) - 60];
    assert_eq!(
        set(engine, CacheEntry::new(&long, b"v")),
        Err("key too large".into())
    );
    assert_eq!(
        set(engine, CacheEntry::new("k", &large)),
        Err("entry too large for the configured table size".into())
    );
    assert_eq!(get(engine, &long), Ok(None), "it cannot be stored");
    let refused = found(engine.start_cache_lookup("", "k", [""]));
    let text = |value: Option<&CacheValue>| match value {
        Some(Err(refusal)) => (refusal.to_string(), refusal.is_unreachable()),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        text(refused.result.as_ref()),
        ("cache control_point cannot be empty".to_owned(), false)
    );
    assert_eq!(
        text(refused.global("")),
        ("cache key cannot be empty".to_owned(), false)
    );
    assert_eq!(store.fake_caches().state().submitted, 0);
    set(engine, CacheEntry::new("k", &large[..large.len() - 100])).expect("it fits");
    assert_eq!(engine.stats().cache_failures, 0);
}

#[test]
fn a_call_submits_256_operations_and_refuses_further_keys() {
    let (store, _, engines) = engines(1, Replies::AtOnce);
    let keys: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    let keys = keys.iter().map(String::as_str);
    let lookup = found(engines[0].start_cache_lookup("", "", keys));
    assert_eq!(store.fake_caches().state().submitted, 256);
    let refused = lookup.global.iter().filter(|(_, value)| value.is_err());
    assert_eq!((lookup.global.len(), refused.count()), (300, 44));
}

#[test]
fn without_a_reply_in_time_lookups_are_misses_with_an_error_and_changes_fail() {
    /// The fate of the operation that waits.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Loss {
        Late,
        Dropped,
        Refused,
    }
    for loss in [Loss::Late, Loss::Dropped, Loss::Refused] {
        let (store, clock, engines) = engines(1, Replies::Held);
        let (engine, caches) = (&engines[0], store.fake_caches());
        let lose = || match loss {
            Loss::Late => clock.advance(DEADLINE),
            Loss::Dropped => caches.refuse(true),
            Loss::Refused => caches.refuse(false),
        };
        let expect = |refusal: &CacheRefusal| {
            assert_eq!(refusal.is_unreachable(), loss != Loss::Refused, "{loss:?}");
        };
        let mut lookup = engine.start_cache_lookup(HERE, "k", []);
        clock.advance(DEADLINE - Duration::from_nanos(1));
        assert!(poll(&mut lookup).is_none());
        lose();
        match found(lookup).result {
            Some(Err(refusal)) => expect(&refusal),
            other => panic!("{loss:?}: {other:?}"),
        }
        caches.deliver_all();
        let entry = CacheEntry::new("k", b"v");
        let mut change = engine.start_cache_upsert(HERE, Some(entry), []);
        assert!(poll(&mut change).is_none());
        lose();
        match changed(change).result {
            Some(Err(refusal)) => expect(&refusal),
            other => panic!("{loss:?}: {other:?}"),
        }
        assert_eq!(engine.stats().cache_failures, 2);
    }
}

#[test]
fn while_the_caches_are_given_up_nothing_is_submitted() {
    let (store, _, engines) = engines(1, Replies::Held);
    let (engine, caches) = (&engines[0], store.fake_caches());
    caches.state().available = false;
    let is_unreachable =
        |refusal: Option<CacheRefusal>| refusal.is_some_and(|it| it.is_unreachable());
    assert!(is_unreachable(get(engine, "k").err()));
    let change = changed(engine.start_cache_delete("", "", ["g"]));
    assert!(is_unreachable(change.global[0].1.clone().err()));
    assert_eq!(caches.state().submitted, 0);
    assert_eq!(engine.stats().cache_failures, 2);
}

#[test]
fn a_change_is_made_though_its_future_is_dropped() {
    let (store, _, engines) = engines(1, Replies::Held);
    drop(engines[0].start_cache_upsert("", None, [CacheEntry::new("g", b"v")]));
    store.fake_caches().deliver_all();
    assert_eq!(store.fake_caches().state().values.len(), 1);
}

#[test]
fn a_store_without_caches_leaves_them_in_process() {
    let (_, _, engines) = several(2, Replies::AtOnce, &[]);
    set(&engines[0], CacheEntry::new("k", b"v")).expect("the entry fits");
    assert_eq!(get(&engines[0], "k"), value("v"));
    assert_eq!(get(&engines[1], "k"), Ok(None));
}

#[test]
fn neither_keys_nor_values_are_shown_or_can_be_read_from_the_keys_of_the_store() {
    let (store, _, engines) = engines(1, Replies::Held);
    let engine = &engines[0];
    let entry = CacheEntry::new("secret-key", b"secret-value");
    let change = engine.start_cache_upsert("secret-point", Some(entry), [entry]);
    store.fake_caches().deliver_all();
    let lookup = engine.start_cache_lookup("secret-point", "secret-key", ["secret-key"]);
    let shown = format!("{engine:?} {change:?} {lookup:?} {store:?}");
    assert!(!shown.contains("secret"), "{shown}");
    let keys: Vec<_> = store.fake_caches().state().values.keys().copied().collect();
    assert_eq!(keys.len(), 2);
    assert!(keys.iter().all(|key| !format!("{key}").contains("secret")));
}

#[tokio::test]
async fn a_silent_store_delays_a_lookup_by_its_deadline_on_the_clock_of_the_system() {
    tokio::time::pause();
    let store = FakeStore::with_caches(&ManualClock::new(), Replies::Held);
    let engine = Engine::builder().shared(store).build();
    let engine = engine.expect("no policies");
    let begun = tokio::time::Instant::now();
    let lookup = engine.start_cache_lookup(HERE, "k", []).await;
    assert!(matches!(lookup.result, Some(Err(_))));
    let took = begun.elapsed();
    assert!((DEADLINE..DEADLINE + millis(3)).contains(&took), "{took:?}");
}

#[test]
fn outside_of_a_runtime_a_lookup_waits_for_no_reply() {
    let store = FakeStore::with_caches(&ManualClock::new(), Replies::Held);
    let engine = Engine::builder().shared(store).build();
    let engine = engine.expect("no policies");
    assert!(get(&engine, "k").is_err());
}
