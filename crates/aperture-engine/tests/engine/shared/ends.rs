//! Ends of flows by reference to slots in the shared store.

use tower_aperture::engine::{SlotRef, SlotReturn};

use super::store::{DEADLINE, Replies};
use super::*;

/// Starts a flow whose slot stays held, and returns the reference to it.
fn hold(engine: &SharedEngine, store: &FakeStore) -> Vec<SlotRef> {
    let flow = start(engine);
    store.deliver_all();
    let (report, ticket) = decided(flow);
    assert!(report.accepted());
    ticket.leave_open();
    report.slots()
}

fn returned(statuses: &[SlotReturn]) -> (bool, Option<&'static str>) {
    (statuses[0].returned, statuses[0].error)
}

#[test]
fn an_engine_ends_a_flow_of_another_one_and_learns_whether_it_held_the_slot() {
    for component in [concurrency_limiter(1.0), concurrency_scheduler(1.0)] {
        let (store, _, engines) = several(2, Replies::Held, std::slice::from_ref(&component));
        let slots = hold(&engines[0], &store);
        for expected in [true, false] {
            let mut end = engines[1].start_flow_end(&slots, None);
            assert!(poll(&mut end).is_none());
            store.deliver_all();
            let statuses = poll(&mut end).expect("the reply is there");
            assert_eq!(returned(&statuses), (expected, None), "{component}");
        }
        assert_eq!(store.slots(), 0);
    }
}

#[test]
fn an_end_waits_for_the_store_no_longer_than_its_deadline() {
    let (store, clock, engine) = one(Replies::Held, &[concurrency_limiter(1.0)]);
    let slots = hold(&engine, &store);
    let mut end = engine.start_flow_end(&slots, None);
    clock.advance(DEADLINE - Duration::from_nanos(1));
    assert!(poll(&mut end).is_none());
    clock.advance(Duration::from_nanos(1));
    let statuses = poll(&mut end).expect("the deadline has passed");
    let error = Some("the shared store did not answer");
    assert_eq!(returned(&statuses), (false, error));
    // The slot is returned nevertheless.
    store.deliver_all();
    assert_eq!(store.slots(), 0);
}

#[test]
fn an_end_that_is_dropped_returns_the_slot() {
    let (store, _, engine) = one(Replies::Held, &[concurrency_limiter(1.0)]);
    let slots = hold(&engine, &store);
    drop(engine.start_flow_end(&slots, None));
    store.deliver_all();
    assert_eq!(store.slots(), 0);
}

#[test]
fn an_end_without_waiting_submits_the_return() {
    for component in [concurrency_limiter(1.0), concurrency_scheduler(1.0)] {
        let (store, _, engines) = several(2, Replies::Held, &[component]);
        let slots = hold(&engines[0], &store);
        assert_eq!(returned(&engines[1].flow_end(&slots, None)), (true, None));
        store.deliver_all();
        assert_eq!(store.slots(), 0);
    }
}

#[test]
fn a_slot_of_the_share_is_returned_without_the_store() {
    for component in [concurrency_limiter(1.0), concurrency_scheduler(1.0)] {
        let (store, _, engine) = one(Replies::Held, &[component]);
        store.state().available = false;
        let slots = hold(&engine, &store);
        let mut end = engine.start_flow_end(&slots, None);
        let statuses = poll(&mut end).expect("it waits for nothing");
        assert_eq!(returned(&statuses), (true, None));
        assert!(store.state().submitted.is_empty());
    }
}

#[test]
fn wrong_references_are_told_as_without_a_store() {
    let (store, _, engine) = one(Replies::Held, &[concurrency_limiter(1.0)]);
    let slots = hold(&engine, &store);
    let wrong = |change: fn(&mut SlotRef)| {
        let mut slot = slots[0].clone();
        change(&mut slot);
        let mut end = engine.start_flow_end(&[slot], None);
        let statuses = poll(&mut end).expect("it waits for nothing");
        (statuses[0].returned, statuses[0].error)
    };
    let unknown = Some("flow ender not found for limiter id");
    assert_eq!(wrong(|slot| slot.component_id.clear()), (false, unknown));
    let empty = Some("request id cannot be empty");
    assert_eq!(wrong(|slot| slot.request_id.clear()), (false, empty));
    assert_eq!(wrong(|slot| slot.request_id.push('x')), (false, None));
    assert_eq!(wrong(|slot| slot.label.clear()), (false, None));
    assert_eq!(store.slots(), 1);
}
