//! The queues of schedulers in front of tokens and slots in the shared store.

use tower_aperture::engine::shared::{StoreAbsence, StoreOperation, TokensMode};

use super::store::{DEADLINE, Replies};
use super::*;

fn start_at(engine: &SharedEngine, priority: u32) -> PendingReport {
    start_with(engine, &params().label("priority", priority.to_string()))
}

/// Starts a flow whose question the store answers, and that waits in the queue then.
fn queued(engine: &SharedEngine, store: &FakeStore, priority: u32) -> PendingReport {
    let mut flow = start_at(engine, priority);
    store.deliver_all();
    assert!(poll(&mut flow).is_none(), "it waits");
    store.deliver_all();
    assert!(poll(&mut flow).is_none(), "it still waits");
    flow
}

#[test]
fn flows_ask_side_by_side_while_no_flow_waits() {
    for component in [quota(3.0, 0.001), concurrency_scheduler(3.0)] {
        let (store, _, engine) = one(Replies::Held, &[component]);
        let flows: Vec<_> = (0..3).map(|_| start(&engine)).collect();
        assert_eq!(store.held(), 3);
        store.deliver_all();
        let held: Vec<_> = flows.into_iter().map(decided).collect();
        for (report, _) in &held {
            assert!(report.accepted());
            let details = &report.limiter_decisions[0].details;
            let queued = format!("{details:?}").contains("queued: 0ns");
            assert!(queued, "{details:?}");
        }
    }
}

#[test]
fn the_head_reserves_tokens_and_runs_when_the_store_says_so() {
    let (store, clock, engine) = one(Replies::Held, &[quota(1.0, 1.0)]);
    let first = start(&engine);
    store.deliver_all();
    assert!(decided(first).0.accepted());
    let mut second = queued(&engine, &store, 1);
    let mut third = start(&engine);
    assert!(poll(&mut third).is_none());
    assert_eq!(store.held(), 0, "one operation for the head of the queue");
    clock.advance(millis(999));
    assert!(poll(&mut second).is_none());
    clock.advance(millis(1));
    let (report, _) = decided(second);
    assert!(report.accepted());
    // Then the next one reserves.
    let operation = store.held_operation(0);
    let StoreOperation::Take(take) = operation else {
        panic!("not a bucket: {operation:?}")
    };
    assert!(matches!(take.mode, TokensMode::Within(Some(_))), "{take:?}");
    store.deliver_all();
    clock.advance(millis(1000));
    assert!(decided(third).0.accepted());
    assert_eq!(store.tokens(), 0.0);
}

#[test]
fn a_reservation_that_is_cancelled_is_returned() {
    let (store, clock, engine) = one(Replies::Held, &[quota(1.0, 1.0)]);
    let first = start(&engine);
    store.deliver_all();
    assert!(decided(first).0.accepted());
    let (second, third) = (queued(&engine, &store, 1), start(&engine));
    assert_eq!(store.tokens(), -1.0);
    drop(third);
    drop(second);
    store.deliver_all();
    assert_eq!(store.tokens(), 0.0);
    clock.advance(millis(1000));
    let flow = start(&engine);
    store.deliver_all();
    assert!(decided(flow).0.accepted());
}

#[test]
fn a_head_that_leaves_before_its_reply_returns_what_the_store_grants() {
    for (component, tokens) in [(quota(1.0, 1.0), 0.0), (concurrency_scheduler(1.0), 0.0)] {
        let (store, _, engine) = one(Replies::Held, &[component]);
        let first = start(&engine);
        store.deliver_all();
        let (_, ticket) = decided(first);
        let mut second = start(&engine);
        store.deliver_all();
        assert!(poll(&mut second).is_none(), "it joins the queue");
        assert_eq!(store.held(), 1, "and its head asks");
        drop(ticket);
        drop(second);
        store.deliver_all();
        assert_eq!((store.tokens(), store.slots()), (tokens, 0));
    }
}

#[test]
fn flows_of_a_queue_get_tokens_by_priority() {
    let (store, clock, engine) = one(Replies::Held, &[quota(1.0, 1.0)]);
    let first = start(&engine);
    store.deliver_all();
    let _ = decided(first);
    let mut head = queued(&engine, &store, 1);
    let (mut low, mut high) = (start_at(&engine, 1), start_at(&engine, 100));
    clock.advance(millis(1000));
    assert!(poll(&mut head).is_some());
    store.deliver_all();
    clock.advance(millis(1000));
    assert!(poll(&mut high).is_some_and(|(report, _)| report.accepted()));
    assert!(poll(&mut low).is_none());
}

#[test]
fn a_slot_that_any_engine_returns_goes_to_the_head_of_a_queue() {
    for own in [false, true] {
        let (store, _, engines) = several(2, Replies::Held, &[concurrency_scheduler(1.0)]);
        let holder = &engines[usize::from(!own)];
        let first = start(holder);
        store.deliver_all();
        let (_, ticket) = decided(first);
        let mut flow = queued(&engines[0], &store, 1);
        drop(ticket);
        store.deliver_all();
        let (report, ticket) = poll(&mut flow).expect("it got the slot");
        assert!(report.accepted());
        assert_eq!(store.slots(), 1);
        drop(ticket);
        store.deliver_all();
        assert_eq!(store.slots(), 0);
    }
}

#[test]
fn a_slot_that_is_returned_while_the_head_asks_is_not_missed() {
    let (store, _, engines) = several(2, Replies::Held, &[concurrency_scheduler(1.0)]);
    let first = start(&engines[1]);
    store.deliver_all();
    let (_, ticket) = decided(first);
    let mut flow = start(&engines[0]);
    store.deliver(0);
    assert!(poll(&mut flow).is_none());
    // The store rejects the head, then frees the slot, and the notice comes before the reply.
    drop(ticket);
    assert_eq!(store.held(), 2);
    store.deliver_out_of_order();
    store.deliver_all();
    assert!(poll(&mut flow).is_some_and(|(report, _)| report.accepted()));
}

#[test]
fn a_slot_that_is_freed_without_a_notice_is_found_after_100_milliseconds() {
    let (store, clock, engine) = one(Replies::Held, &[concurrency_scheduler(1.0)]);
    let first = start(&engine);
    store.deliver_all();
    decided(first).1.leave_open();
    let mut flow = queued(&engine, &store, 1);
    store.free_silently();
    clock.advance(millis(99));
    assert!(poll(&mut flow).is_none());
    assert_eq!(store.held(), 0);
    clock.advance(millis(1));
    assert!(poll(&mut flow).is_none());
    store.deliver_all();
    assert!(poll(&mut flow).is_some_and(|(report, _)| report.accepted()));
}

#[test]
fn the_head_asks_again_when_the_oldest_slot_expires() {
    let (store, clock, engine) = one(Replies::Held, &[concurrency_scheduler(1.0)]);
    let first = start(&engine);
    store.deliver_all();
    decided(first).1.leave_open();
    clock.advance(millis(9950));
    let mut flow = queued(&engine, &store, 1);
    clock.advance(millis(50) + Duration::from_nanos(1));
    assert!(poll(&mut flow).is_none());
    store.deliver_all();
    assert!(poll(&mut flow).is_some_and(|(report, _)| report.accepted()));
}

#[test]
fn a_flow_without_a_deadline_and_a_queue_timeout_waits_for_no_slot() {
    let component = concurrency_scheduler(1.0).replace("queue_timeout: 60s", "");
    let (store, _, engine) = one(Replies::Held, &[component]);
    let first = start(&engine);
    store.deliver_all();
    let _held = decided(first);
    let mut second = start(&engine);
    store.deliver_all();
    assert!(poll(&mut second).is_none(), "the head of the queue asks");
    store.deliver_all();
    assert!(!poll(&mut second).expect("it does not wait").0.accepted());
}

#[test]
fn a_queued_flow_is_rejected_at_its_deadline() {
    for component in [quota(1.0, 0.001), concurrency_scheduler(1.0)] {
        let (store, clock, engine) = one(Replies::Held, std::slice::from_ref(&component));
        let first = start(&engine);
        store.deliver_all();
        let _held = decided(first);
        let mut flow = start_within(&engine, millis(500));
        store.deliver_all();
        let _ = poll(&mut flow);
        store.deliver_all();
        clock.advance(millis(500));
        let (report, _) = poll(&mut flow).expect("the deadline has passed");
        assert!(!report.accepted(), "{component}");
        assert_eq!(store.deliver_all(), 0, "{component}");
    }
}

#[test]
fn a_head_whose_reply_is_late_is_decided_without_the_store() {
    for component in [quota(1.0, 1.0), concurrency_scheduler(1.0)] {
        for (absence, accepted) in [(StoreAbsence::Open, true), (StoreAbsence::Closed, false)] {
            let (store, clock, engine) = one(Replies::Held, std::slice::from_ref(&component));
            store.state().absence = absence;
            let first = start(&engine);
            store.deliver_all();
            let _held = decided(first);
            let mut flow = start(&engine);
            store.deliver_all();
            assert!(poll(&mut flow).is_none());
            clock.advance(DEADLINE);
            let (report, _) = poll(&mut flow).expect("the reply is late");
            assert_eq!(report.accepted(), accepted, "{component}");
            store.deliver_all();
            assert!(store.slots() <= 1 && store.tokens() >= 0.0, "{component}");
        }
    }
}

#[test]
fn a_queue_without_the_store_runs_by_the_share() {
    for component in [quota(2.0, 2.0), concurrency_scheduler(2.0)] {
        let (store, clock, engine) = one(Replies::Held, std::slice::from_ref(&component));
        {
            let mut state = store.state();
            (state.available, state.nodes) = (false, 2);
        }
        let (report, ticket) = decided(start(&engine));
        assert!(report.accepted(), "{component}");
        let mut second = start(&engine);
        assert!(
            poll(&mut second).is_none(),
            "it waits for the share: {component}"
        );
        drop(ticket);
        clock.advance(millis(1000));
        assert!(
            poll(&mut second).is_some_and(|(report, _)| report.accepted()),
            "{component}"
        );
        assert!(store.state().submitted.is_empty());
    }
}

#[test]
fn a_raised_limit_serves_waiting_flows() {
    let (store, _, engine) = one(Replies::Held, &[concurrency_scheduler(1.0)]);
    let first = start(&engine);
    store.deliver_all();
    let _held = decided(first);
    let mut flow = queued(&engine, &store, 1);
    let raised = [("shared.yaml", policy(&[concurrency_scheduler(2.0)]))];
    engine.reload_with(raised).expect("the policy is valid");
    store.deliver_all();
    assert!(poll(&mut flow).is_some_and(|(report, _)| report.accepted()));
}

#[test]
fn a_long_queue_in_front_of_a_store_that_replies_at_once_is_served_without_recursion() {
    const FLOWS: usize = 3000;
    let (store, _, engine) = one(Replies::AtOnce, &[concurrency_scheduler(1.0)]);
    let (_, ticket) = decided(start(&engine));
    let mut flows: Vec<_> = (0..FLOWS).map(|_| start(&engine)).collect();
    for flow in &mut flows {
        assert!(poll(flow).is_none());
    }
    let raised = [("shared.yaml", policy(&[concurrency_scheduler(1e9)]))];
    engine.reload_with(raised).expect("the policy is valid");
    let accepted = flows.iter_mut().filter_map(poll);
    let held: Vec<_> = accepted.filter(|(report, _)| report.accepted()).collect();
    assert_eq!(held.len(), FLOWS);
    assert_eq!(store.slots(), FLOWS + 1);
    drop((ticket, held));
    assert_eq!(store.slots(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_flows_hold_the_only_slot_and_each_gets_it() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    let (store, _, engines) = several(2, Replies::OnThread, &[concurrency_scheduler(1.0)]);
    let inside = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..40)
        .map(|at| {
            let (engine, inside) = (engines[at % 2].clone(), Arc::clone(&inside));
            tokio::spawn(async move {
                let (report, ticket) = start(&engine).await;
                assert!(report.accepted(), "the clock stands still");
                assert_eq!(inside.fetch_add(1, SeqCst), 0);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, SeqCst);
                drop(ticket);
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no flow panics");
    }
    drop(engines);
    while store.slots() > 0 {
        tokio::task::yield_now().await;
    }
}
