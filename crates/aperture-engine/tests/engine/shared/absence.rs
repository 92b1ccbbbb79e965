//! Flows that are decided without the shared store, because it is slow or away.

use tower_aperture::engine::shared::StoreAbsence;

use super::store::{DEADLINE, Replies};
use super::*;

/// Starts this many flows, holds what they get, and returns how many are accepted.
fn accepted_of(engine: &SharedEngine, flows: usize) -> usize {
    let flows = (0..flows).map(|_| decided(start_within(engine, millis(5000))));
    let (held, _): (Vec<_>, Vec<_>) = flows.partition(|(report, _)| report.accepted());
    held.len()
}

#[test]
fn while_the_store_is_given_up_engines_decide_as_it_says() {
    for component in every_kind() {
        for (absence, expected) in [
            (StoreAbsence::Open, 12),
            (StoreAbsence::Closed, 0),
            // Ten, divided by three engines, rounded up.
            (StoreAbsence::LocalShare, 4),
        ] {
            let (store, _, engine) = one(Replies::Held, std::slice::from_ref(&component));
            {
                let mut state = store.state();
                (state.available, state.nodes, state.absence) = (false, 3, absence);
            }
            let mut accepted = 0;
            let mut held = Vec::new();
            for _ in 0..12 {
                let mut flow = start_within(&engine, millis(5000));
                if let Some((report, ticket)) = poll(&mut flow) {
                    accepted += usize::from(report.accepted());
                    held.push(ticket);
                }
            }
            assert_eq!(accepted, expected, "{absence:?} {component}");
            let asked = store.state().submitted.clone();
            assert!(asked.is_empty(), "{asked:?}");
            let without = store.state().without as u64;
            assert!(without >= expected as u64, "{without}");
            assert_eq!(engine.stats().decided_without_store, without);
        }
    }
}

#[test]
fn a_share_is_at_least_one_token_and_never_more_than_the_limit() {
    for (limit, nodes, expected) in [(2.0, 5, 1), (0.5, 1, 0), (3.0, 1, 3), (0.0, 4, 0)] {
        let limiter = rate_limiter(limit, 0.25, "");
        let (store, _, engine) = one(Replies::Held, &[limiter]);
        {
            let mut state = store.state();
            (state.available, state.nodes) = (false, nodes);
        }
        assert_eq!(accepted_of(&engine, 6), expected, "{limit} of {nodes}");
    }
}

#[test]
fn a_reply_that_is_late_is_not_waited_for_and_its_grant_is_returned() {
    for component in every_kind() {
        let (store, clock, engine) = one(Replies::Held, std::slice::from_ref(&component));
        let mut flow = start(&engine);
        clock.advance(DEADLINE - Duration::from_nanos(1));
        assert!(poll(&mut flow).is_none(), "{component}");
        clock.advance(Duration::from_nanos(1));
        let (report, ticket) = decided(flow);
        assert!(report.accepted(), "by the share: {component}");
        assert_eq!(store.state().without, 1);
        store.deliver_all();
        assert_eq!(store.slots(), 0, "{component}");
        assert!([0.0, 10.0].contains(&store.tokens()), "{component}");
        assert_eq!(store.state().submitted.len(), 2, "the return: {component}");
        drop(ticket);
        assert_eq!(store.deliver_all(), 0, "the share has it back: {component}");
    }
}

#[test]
fn a_flow_is_decided_ten_milliseconds_before_its_deadline() {
    let (store, clock, engine) = one(Replies::Held, &[rate_limiter(5.0, 1.0, "")]);
    let mut flow = start_within(&engine, millis(15));
    assert_eq!(store.held(), 1);
    clock.advance(millis(4));
    assert!(poll(&mut flow).is_none());
    clock.advance(millis(1));
    assert!(decided(flow).0.accepted());
    assert_eq!(store.state().without, 1);
}

#[test]
fn an_error_and_a_lost_reply_are_decided_without_the_store_at_once() {
    for drops in [false, true] {
        for component in every_kind() {
            let (store, _, engine) = one(Replies::Held, std::slice::from_ref(&component));
            store.state().absence = StoreAbsence::Closed;
            let flow = start(&engine);
            store.refuse(0, drops);
            assert!(!decided(flow).0.accepted());
            assert_eq!(store.state().without, 1);
        }
    }
}

#[test]
fn a_slot_whose_reply_was_lost_is_returned() {
    for component in [concurrency_limiter(1.0), concurrency_scheduler(1.0)] {
        let (store, _, engine) = one(Replies::Held, &[component]);
        store.state().absence = StoreAbsence::Closed;
        let flow = start(&engine);
        store.lose_reply(0);
        assert_eq!(store.slots(), 1);
        assert!(!decided(flow).0.accepted());
        store.deliver_all();
        assert_eq!(store.slots(), 0);
    }
}

#[test]
fn a_flow_in_shadow_mode_waits_for_the_store_and_for_no_queue() {
    for component in [quota(1.0, 0.001), concurrency_scheduler(1.0)] {
        let (store, _, engine) = one(Replies::Held, std::slice::from_ref(&component));
        let mut shadow = params();
        shadow.shadow = true;
        let mut held = Vec::new();
        for expected in [true, false] {
            let mut flow = start_with(&engine, &shadow);
            assert!(poll(&mut flow).is_none(), "{component}");
            store.deliver_all();
            let (report, ticket) = decided(flow);
            assert_eq!(report.accepted(), expected, "{component}");
            held.push(ticket);
        }
    }
}

#[test]
fn a_dry_run_asks_the_store_and_delays_a_flow_by_its_deadline_at_most() {
    for component in every_kind() {
        let clock = ManualClock::new();
        let store = FakeStore::new(&clock, Replies::Held);
        let engine = builder(&store, &clock, std::slice::from_ref(&component))
            .dry_run_all(true)
            .build()
            .expect("the policy is valid");
        store.state().absence = StoreAbsence::Closed;
        let mut flow = start(&engine);
        assert!(poll(&mut flow).is_none(), "{component}");
        store.deliver_all();
        let (report, first) = decided(flow);
        assert!(report.accepted() && !report.limiter_decisions[0].dropped);

        let mut flow = start(&engine);
        clock.advance(DEADLINE);
        let (report, _) = poll(&mut flow).expect("the deadline has passed");
        assert!(report.accepted() && report.limiter_decisions[0].dropped);
        assert_eq!(engine.stats().dry_run_rejections, 1);
        drop((flow, first));
        store.deliver_all();
        assert_eq!(store.slots(), 0, "{component}");
    }
}

#[tokio::test]
async fn a_silent_store_delays_a_flow_by_its_deadline_on_the_clock_of_the_system() {
    tokio::time::pause();
    let store = FakeStore::new(&ManualClock::new(), Replies::Held);
    let engine = Engine::builder()
        .policy_text("shared.yaml", policy(&[rate_limiter(1.0, 1.0, "")]))
        .shared(store.clone())
        .build()
        .expect("the policy is valid");
    let begun = tokio::time::Instant::now();
    assert!(start(&engine).await.0.accepted());
    let took = begun.elapsed();
    assert!((DEADLINE..DEADLINE + millis(3)).contains(&took), "{took:?}");
}

#[test]
fn outside_of_a_runtime_a_flow_is_decided_without_a_store_that_does_not_reply() {
    let store = FakeStore::new(&ManualClock::new(), Replies::Held);
    let engine = Engine::builder()
        .policy_text("shared.yaml", policy(&[rate_limiter(1.0, 1.0, "")]))
        .shared(store.clone())
        .build()
        .expect("the policy is valid");
    assert!(accepts(&engine));
    store.deliver_all();
    assert_eq!(store.tokens(), 1.0);
}
