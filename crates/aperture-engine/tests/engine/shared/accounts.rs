//! Lazy sync with the shared store: decisions without a round trip between syncs.

use tower_aperture::engine::shared::{StoreAbsence, StoreOperation, TokensMode};

use super::store::{DEADLINE, Replies};
use super::*;
use crate::support::tokens;

/// A rate limiter that syncs each of its accounts every 100 ms.
fn lazy(capacity: f64, fill: f64) -> [String; 1] {
    let lazy = ", lazy_sync: {enabled: true, num_sync: 10}";
    [rate_limiter(capacity, fill, lazy)]
}

/// Starts a flow, and carries out what it asks for.
fn accepts_asking(engine: &SharedEngine, store: &FakeStore) -> bool {
    let flow = start(engine);
    store.deliver_all();
    decided(flow).0.accepted()
}

/// Returns the tokens that the operations without a reply charge.
fn charges(store: &FakeStore) -> Vec<f64> {
    let held = (0..store.held()).map(|at| store.held_operation(at));
    held.filter_map(|operation| match operation {
        StoreOperation::Take(take) if take.mode == TokensMode::Correct => Some(take.tokens),
        _ => None,
    })
    .collect()
}

#[test]
fn only_the_first_use_of_a_key_waits_for_the_store() {
    let (store, clock, engine) = one(Replies::Held, &lazy(10.0, 0.0));
    let mut first = start(&engine);
    assert!(poll(&mut first).is_none());
    store.deliver_all();
    assert!(decided(first).0.accepted());
    for remaining in [8.0, 7.0, 6.0] {
        let (report, _) = decided(start(&engine));
        assert_eq!(tokens(&report, "root.0").remaining, remaining);
    }
    assert_eq!((store.held(), store.tokens()), (0, 9.0));
    // A sync is due, and does not delay the flow that finds it due.
    clock.advance(millis(100));
    assert!(accepts(&engine));
    assert_eq!(charges(&store), [4.0]);
    store.deliver_all();
    assert_eq!(store.tokens(), 5.0);
}

#[test]
fn engines_exceed_the_limit_by_what_they_grant_between_syncs() {
    let (store, clock, engines) = several(2, Replies::AtOnce, &lazy(10.0, 0.0));
    let grants = |engine: &SharedEngine| (0..20).filter(|_| accepts(engine)).count();
    assert_eq!(grants(&engines[0]), 10);
    // The first engine has asked for one token, and synced no other.
    assert_eq!(grants(&engines[1]), 9);
    clock.advance(millis(100));
    let _ = (accepts(&engines[0]), accepts(&engines[1]));
    assert_eq!(store.tokens(), -9.0);
    assert_eq!(grants(&engines[0]) + grants(&engines[1]), 0);
}

#[test]
fn a_flow_that_the_account_has_no_tokens_for_asks_when_a_sync_is_due() {
    let (store, clock, engine) = one(Replies::Held, &lazy(2.0, 10.0));
    assert!(accepts_asking(&engine, &store) && accepts(&engine) && !accepts(&engine));
    assert_eq!(store.held(), 0);
    clock.advance(millis(150));
    // By then the bucket is full, and the sync charges what the account granted.
    assert!(accepts_asking(&engine, &store));
    assert!(!accepts(&engine), "no sync is due");
    assert_eq!((store.held(), store.tokens()), (0, 0.0));
}

#[test]
fn a_sync_that_is_late_or_fails_leaves_flows_to_be_decided_without_the_store() {
    for late in [false, true] {
        let (store, clock, engine) = one(Replies::Held, &lazy(10.0, 0.0));
        store.state().absence = StoreAbsence::Closed;
        assert!(accepts_asking(&engine, &store));
        assert!(accepts(&engine));
        clock.advance(millis(100));
        assert!(accepts(&engine), "the sync is under way");
        match late {
            true => clock.advance(DEADLINE),
            false => store.refuse(0, false),
        }
        assert!(!accepts(&engine));
        assert!(store.state().without > 0);
        // The next sync charges what the failed one did not.
        clock.advance(millis(200));
        let _ = accepts(&engine);
        store.deliver_all();
        assert_eq!(store.tokens(), 7.0);
        assert!(accepts(&engine));
    }
}

#[test]
fn an_account_that_is_dropped_charges_what_is_not_charged_yet() {
    let (store, _, engine) = one(Replies::AtOnce, &lazy(10.0, 0.0));
    for _ in 0..4 {
        assert!(accepts(&engine));
    }
    assert_eq!(store.tokens(), 9.0);
    drop(engine);
    assert_eq!(store.tokens(), 6.0);
}

#[test]
fn a_rejection_by_another_component_returns_tokens_to_the_account() {
    let [lazy] = lazy(10.0, 0.0);
    let (store, _, engine) = one(Replies::AtOnce, &[lazy, concurrency_limiter(1.0)]);
    let (_, held) = decided(start(&engine));
    for _ in 0..20 {
        assert!(!accepts(&engine));
    }
    drop(held);
    let (report, _ticket) = decided(start(&engine));
    assert!(report.accepted());
    assert_eq!(tokens(&report, "root.0").remaining, 8.0);
    drop((engine, store));
}
