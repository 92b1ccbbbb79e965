//! Flows whose cache keys are looked up in a shared store.

use tower_aperture::engine::CacheEntry;
use tower_aperture::{Check, Decider, Ticket, Verdict};

use super::store::{DEADLINE, Replies};
use super::*;

/// Returns a store with caches, its clock, and an engine.
fn one_with_caches(
    replies: Replies,
    components: &[String],
) -> (FakeStore, ManualClock, SharedEngine) {
    let clock = ManualClock::new();
    let store = FakeStore::with_caches(&clock, replies);
    let engine = engine(&store, &clock, components);
    (store, clock, engine)
}

fn keyed(key: &'static str) -> FlowParams<'static> {
    params().result_cache_key(key).global_cache_key("g")
}

/// Stores a value under the key `k` of the result cache.
fn store_value(engine: &SharedEngine, store: &FakeStore) {
    let entry = CacheEntry::new("k", b"v");
    drop(engine.start_cache_upsert(HERE, Some(entry), []));
    store.fake_caches().deliver_all();
}

/// Returns true if the value under the key `k` was found.
fn is_hit(report: &CheckReport) -> bool {
    let lookup = report.cache_lookup.as_ref();
    lookup.is_some_and(|found| found.result_value().is_some())
}

#[test]
fn a_lookup_is_under_way_at_once_with_the_limiters_of_the_flow() {
    let (store, _, engine) = one_with_caches(
        Replies::Held,
        &[rate_limiter(5.0, 0.0, ""), quota(5.0, 0.0)],
    );
    store_value(&engine, &store);
    for caches_first in [false, true] {
        let mut flow = start_with(&engine, &keyed("k"));
        assert_eq!((store.held(), store.fake_caches().held()), (1, 2));
        if caches_first {
            store.fake_caches().deliver_all();
            assert!(poll(&mut flow).is_none(), "the limiter has not decided");
            store.deliver_all();
        } else {
            store.deliver_all();
            assert!(poll(&mut flow).is_none(), "the caches have not replied");
            assert_eq!(store.held(), 0, "the scheduler is not asked");
            store.fake_caches().deliver_all();
        }
        let (report, _) = decided(flow);
        assert!(report.accepted() && is_hit(&report));
        let lookup = report.cache_lookup.as_ref().expect("it was made");
        assert_eq!(lookup.global("g"), Some(&Ok(None)));
        assert_eq!(
            report.limiter_decisions.len(),
            1,
            "a hit skips the scheduler"
        );
    }
    assert_eq!(store.tokens(), 3.0);
}

#[test]
fn a_miss_costs_quota_and_a_rejected_flow_reports_no_lookup() {
    let (store, _, engine) = one_with_caches(Replies::AtOnce, &[quota(1.0, 0.0)]);
    let mut shadow = keyed("other");
    shadow.shadow = true;
    let (report, _) = decided(start_with(&engine, &shadow));
    assert!(report.accepted() && !is_hit(&report) && report.cache_lookup.is_some());
    assert_eq!(store.tokens(), 0.0);
    // The caches are looked up before schedulers decide.
    let (report, _) = decided(start_with(&engine, &shadow));
    assert!(!report.accepted() && report.cache_lookup.is_some());

    let (store, _, engine) = one_with_caches(Replies::AtOnce, &[rate_limiter(0.0, 1.0, "")]);
    store_value(&engine, &store);
    let (report, _) = decided(start_with(&engine, &keyed("k")));
    assert!(!report.accepted() && report.cache_lookup.is_none());
}

#[test]
fn a_lookup_without_a_reply_delays_a_flow_by_the_deadline_and_is_a_miss() {
    for component in [rate_limiter(9.0, 0.0, ""), concurrency_scheduler(9.0)] {
        let (store, clock, engine) = one_with_caches(Replies::Held, &[component, quota(9.0, 0.0)]);
        let mut flow = start_with(&engine, &keyed("k"));
        store.deliver_all();
        assert!(poll(&mut flow).is_none());
        clock.advance(DEADLINE - Duration::from_nanos(1));
        assert!(poll(&mut flow).is_none());
        clock.advance(Duration::from_nanos(1));
        assert!(
            poll(&mut flow).is_none(),
            "the quota scheduler is asked now"
        );
        store.deliver_all();
        let (report, _) = decided(flow);
        assert!(report.accepted());
        let lookup = report.cache_lookup.expect("it was made");
        let result = lookup.result.expect("it has a key");
        assert!(result.expect_err("a late reply").is_unreachable());
        assert_eq!(engine.stats().cache_failures, 2);
        store.fake_caches().deliver_all();
    }
}

#[test]
fn a_lookup_ends_ten_milliseconds_before_the_deadline_of_its_flow() {
    let (store, clock, engine) = one_with_caches(Replies::Held, &[]);
    let check = |left: u64| {
        let deadline = Some(millis(left));
        engine.start(&CheckInput::new(HERE, &keyed("k")).deadline(deadline))
    };
    let mut flow = check(15);
    clock.advance(millis(4));
    assert!(poll(&mut flow).is_none());
    clock.advance(millis(1));
    assert!(decided(flow).0.accepted());
    let submitted = store.fake_caches().state().submitted;
    assert!(decided(check(10)).0.accepted(), "no time is left to ask");
    assert_eq!(store.fake_caches().state().submitted, submitted);
}

#[test]
fn a_flow_that_no_component_selects_is_undecided_unless_its_response_is_cached() {
    let (store, _, engine) = one_with_caches(Replies::Held, &[]);
    store_value(&engine, &store);
    for (key, hit) in [("other", false), ("k", true)] {
        let before = engine.stats().undecided;
        let mut flow = start_with(&engine, &keyed(key));
        assert!(poll(&mut flow).is_none());
        store.fake_caches().deliver_all();
        let (report, _) = decided(flow);
        assert!(report.accepted());
        assert_eq!((report.undecided, is_hit(&report)), (!hit, hit));
        assert_eq!(engine.stats().undecided - before, u64::from(!hit));
    }
    assert_eq!(engine.stats().accepted, 2);
    // The limiter skips a flow without its label.
    let (store, _, engine) = one_with_caches(Replies::Held, &[rate_limiter(1.0, 0.0, "")]);
    let params = FlowParams::new().result_cache_key("other");
    let flow = start_with(&engine, &params);
    store.fake_caches().deliver_all();
    assert!(decided(flow).0.undecided);
}

#[test]
fn a_flow_that_leaves_during_its_lookup_returns_its_slot() {
    let (store, _, engine) = one_with_caches(Replies::Held, &[concurrency_limiter(1.0)]);
    let mut flow = start_with(&engine, &keyed("k"));
    store.deliver_all();
    assert!(poll(&mut flow).is_none());
    assert_eq!(store.slots(), 1);
    drop(flow);
    store.fake_caches().deliver_all();
    store.deliver_all();
    assert_eq!(store.slots(), 0);
}

#[test]
fn a_flow_that_gives_up_is_accepted_without_its_lookup_and_rejected_by_a_queue() {
    let (store, _, engine) = one_with_caches(Replies::Held, &[rate_limiter(1.0, 0.0, "")]);
    let mut flow = start_with(&engine, &keyed("k"));
    store.deliver_all();
    assert!(poll(&mut flow).is_none());
    flow.give_up();
    let (report, _) = decided(flow);
    assert!(report.accepted() && report.cache_lookup.is_some());

    let (_, _, engine) = one_with_caches(Replies::Held, &[quota(1.0, 0.0)]);
    let mut flow = start_with(&engine, &keyed("k"));
    flow.give_up();
    assert!(
        !decided(flow).0.accepted(),
        "it would wait for the scheduler"
    );
}

#[test]
fn a_ticket_has_the_lookup_of_its_flow() {
    let (store, _, engine) = one_with_caches(Replies::Held, &[rate_limiter(1.0, 0.0, "")]);
    store_value(&engine, &store);
    let Check::Pending(mut pending) = engine.decide(HERE, &keyed("k")) else {
        panic!("the store has not replied");
    };
    store.deliver_all();
    store.fake_caches().deliver_all();
    let Some(Verdict::Accepted(mut ticket)) = poll(&mut pending) else {
        panic!("the flow has a token");
    };
    let lookup = ticket.take_cache_lookup();
    assert!(lookup.is_some_and(|found| found.result_value().is_some()));
}

#[test]
fn a_flow_without_cache_keys_asks_no_caches() {
    let (store, _, engine) = one_with_caches(Replies::AtOnce, &[rate_limiter(1.0, 0.0, "")]);
    let (report, _) = decided(start(&engine));
    assert!(report.accepted() && report.cache_lookup.is_none());
    assert_eq!(store.fake_caches().state().submitted, 0);
}
