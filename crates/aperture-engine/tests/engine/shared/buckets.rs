//! Rate limiters whose buckets are in the shared store.

use std::collections::HashSet;
use std::sync::Arc;

use tower_aperture::RejectReason;
use tower_aperture::engine::LimiterDetails;
use tower_aperture::engine::shared::StoreOperation;

use super::store::Replies;
use super::*;
use crate::support::{decision_of, tokens};

#[test]
fn all_engines_together_grant_what_one_bucket_holds() {
    for replies in [Replies::AtOnce, Replies::Held] {
        let (store, _, engines) = several(3, replies, &[rate_limiter(10.0, 0.0, "")]);
        let flows: Vec<_> = (0..15).map(|at| start(&engines[at % 3])).collect();
        store.deliver_all();
        let decided = flows.into_iter().map(decided);
        assert_eq!(decided.filter(|(report, _)| report.accepted()).count(), 10);
        assert_eq!(store.tokens(), 0.0);
    }
}

#[test]
fn each_policy_component_and_label_value_has_a_bucket_of_its_own() {
    let clock = ManualClock::new();
    let store = FakeStore::new(&clock, Replies::AtOnce);
    let components = [rate_limiter(1.0, 0.0, ""), rate_limiter(1.0, 0.0, "")];
    let engine = engine(&store, &clock, &components);
    let other = Engine::builder()
        .policy_text("other.yaml", policy(&components))
        .clock(clock)
        .shared(store.node())
        .build()
        .expect("the policy is valid");
    for engine in [&engine, &other] {
        for user in ["ann", "bob"] {
            let params = FlowParams::new().label("user", user);
            assert!(decided(start_with(engine, &params)).0.accepted());
            assert!(!decided(start_with(engine, &params)).0.accepted());
        }
    }
    // Two policies, two components, two users.
    let keys = store
        .state()
        .submitted
        .iter()
        .map(key_of)
        .collect::<HashSet<_>>();
    assert_eq!(keys.len(), 8);
}

fn key_of(operation: &StoreOperation) -> String {
    match operation {
        StoreOperation::Take(take) => take.key.to_string(),
        other => panic!("not a bucket: {other:?}"),
    }
}

#[test]
fn a_flow_waits_for_the_reply_and_reports_what_the_store_says() {
    let (store, clock, engine) = one(Replies::Held, &[rate_limiter(5.0, 2.0, "")]);
    let params = params().label("tokens", "4");
    let mut first = start_with(&engine, &params);
    assert!(poll(&mut first).is_none());
    store.deliver_all();
    let (report, _) = decided(first);
    assert!(report.accepted());
    let info = tokens(&report, "root.0");
    assert_eq!(
        (info.remaining, info.current, info.consumed),
        (1.0, 4.0, 4.0)
    );

    let second = start_with(&engine, &params);
    store.deliver_all();
    let (report, _) = decided(second);
    assert_eq!(report.reject_reason, Some(RejectReason::RateLimited));
    assert_eq!(report.denied_response_status_code, 429);
    assert_eq!(report.wait_time, Some(millis(1500)));
    assert_eq!(store.state().without, 0);

    clock.advance(millis(1500));
    let third = start_with(&engine, &params);
    store.deliver_all();
    assert!(decided(third).0.accepted());
}

#[test]
fn all_limiters_of_a_flow_ask_before_the_first_reply() {
    let components = [
        rate_limiter(5.0, 1.0, ""),
        concurrency_limiter(5.0),
        rate_limiter(7.0, 1.0, ""),
    ];
    let (store, _, engine) = one(Replies::Held, &components);
    let flow = start(&engine);
    assert_eq!(store.held(), 3);
    store.deliver_all();
    let (report, _ticket) = decided(flow);
    assert!(report.accepted());
    assert_eq!(report.limiter_decisions.len(), 3);
}

#[test]
fn a_rejection_by_one_component_returns_what_the_others_took() {
    let components = [
        rate_limiter(5.0, 0.0, ""),
        concurrency_limiter(5.0),
        rate_limiter(0.5, 0.0, ""),
    ];
    for replies in [Replies::AtOnce, Replies::Held] {
        for order in [[0, 0, 0], [2, 1, 0]] {
            let (store, _, engine) = one(replies, &components);
            let flow = start(&engine);
            if replies == Replies::Held {
                order.into_iter().for_each(|at| store.deliver(at));
            }
            assert!(!decided(flow).0.accepted());
            store.deliver_all();
            assert_eq!((store.tokens(), store.slots()), (5.5, 0));
        }
    }
}

#[test]
fn the_longest_wait_is_reported_unless_no_wait_helps() {
    let (quick, slow) = (rate_limiter(1.0, 2.0, ""), rate_limiter(1.0, 0.5, ""));
    let (store, _, engine) = one(Replies::Held, &[quick, slow]);
    for expected in [None, Some(millis(2000))] {
        let flow = start(&engine);
        store.deliver_all();
        assert_eq!(decided(flow).0.wait_time, expected);
    }
    let never = start_with(&engine, &params().label("tokens", "2"));
    store.deliver_all();
    let (report, _) = decided(never);
    assert!(!report.accepted());
    assert_eq!(report.wait_time, None);
}

#[test]
fn a_flow_without_the_label_or_without_a_limit_asks_nothing() {
    let components = [rate_limiter(0.0, 0.0, ""), rate_limiter(1.0, 1.0, "")];
    let (store, _, engine) = one(Replies::Held, &components);
    let (report, _) = decided(start_with(&engine, &FlowParams::new()));
    assert!(report.accepted());
    let details = &decision_of(&report, "root.1").details;
    assert!(matches!(details, LimiterDetails::RateLimiter { label, .. } if label.is_empty()));
    assert!(store.state().submitted.is_empty());
}

#[test]
fn a_flow_whose_deadline_is_close_is_rejected_without_asking() {
    let (store, _, engine) = one(Replies::Held, &[rate_limiter(5.0, 1.0, "")]);
    assert!(!decided(start_within(&engine, millis(10))).0.accepted());
    assert_eq!(store.held(), 0);
}

#[test]
fn a_reload_keeps_the_balance_and_follows_the_new_limit() {
    let (store, _, engine) = one(Replies::AtOnce, &[rate_limiter(2.0, 0.0, "")]);
    assert!(accepts(&engine) && accepts(&engine) && !accepts(&engine));
    let reloaded = engine.reload_with([("shared.yaml", policy(&[rate_limiter(3.0, 1.0, "")]))]);
    reloaded.expect("the policy is valid");
    assert!(!accepts(&engine));
    let state = store.state();
    let Some(StoreOperation::Take(take)) = state.submitted.last() else {
        panic!("no bucket was asked")
    };
    assert_eq!((take.bucket.capacity, take.bucket.fill), (3.0, 1.0));
}

#[test]
fn a_store_behind_an_arc_is_accepted() {
    let clock = ManualClock::new();
    let store = Arc::new(FakeStore::new(&clock, Replies::AtOnce));
    let engine = Engine::builder()
        .policy_text("shared.yaml", policy(&[rate_limiter(1.0, 0.0, "")]))
        .clock(clock)
        .shared(Arc::clone(&store))
        .build()
        .expect("the policy is valid");
    assert!(accepts(&engine) && !accepts(&engine));
    assert_eq!(store.state().submitted.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_from_another_thread_wake_flows() {
    let (store, _, engines) = several(2, Replies::OnThread, &[rate_limiter(50.0, 0.0, "")]);
    let tasks: Vec<_> = (0..100)
        .map(|at| {
            let engine = engines[at % 2].clone();
            tokio::spawn(async move { start(&engine).await.0.accepted() })
        })
        .collect();
    let mut accepted = 0;
    for task in tasks {
        accepted += usize::from(task.await.expect("no flow panics"));
    }
    assert_eq!((accepted, store.tokens()), (50, 0.0));
}
