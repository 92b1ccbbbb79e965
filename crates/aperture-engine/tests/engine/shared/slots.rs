//! Concurrency limiters whose slots are in the shared store.

use tower_aperture::engine::LimiterDetails;
use tower_aperture::{FlowOutcome, FlowStatus};

use super::store::Replies;
use super::*;

#[test]
fn all_engines_together_hold_as_many_slots_as_the_limit() {
    let (store, clock, engines) = several(2, Replies::AtOnce, &[concurrency_limiter(2.0)]);
    let (_, first) = decided(start(&engines[0]));
    let (_, second) = decided(start(&engines[1]));
    assert!(!accepts(&engines[0]) && !accepts(&engines[1]));
    drop(first);
    let (report, _third) = decided(start(&engines[1]));
    assert!(report.accepted());
    assert!(!accepts(&engines[0]));
    // The slots of a killed engine expire.
    second.leave_open();
    clock.advance(Duration::from_secs(11));
    assert_eq!(store.slots(), 0);
    assert!(accepts(&engines[0]));
}

#[test]
fn a_rejected_flow_has_an_id_and_no_slot() {
    let (store, _, engine) = one(Replies::AtOnce, &[concurrency_limiter(1.0)]);
    let (_, held) = decided(start(&engine));
    let (report, ticket) = decided(start(&engine));
    let LimiterDetails::ConcurrencyLimiter {
        request_id, tokens, ..
    } = &report.limiter_decisions[0].details
    else {
        panic!("not a limiter: {report:?}")
    };
    assert!(request_id.is_some());
    assert_eq!((tokens.remaining, tokens.current), (0.0, 1.0));
    drop(ticket);
    assert_eq!(store.slots(), 1);
    drop(held);
    assert_eq!(store.slots(), 0);
}

#[test]
fn each_slot_is_returned_once() {
    let (store, _, engine) = one(Replies::AtOnce, &[concurrency_limiter(5.0)]);
    let (report, mut ticket) = decided(start(&engine));
    let id = report.limiter_decisions[0]
        .details
        .slot()
        .expect("a slot")
        .1;
    assert!(ticket.return_slot(id, FlowOutcome::new(FlowStatus::Ok)));
    assert!(!ticket.return_slot(id, FlowOutcome::new(FlowStatus::Ok)));
    drop(ticket);
    assert_eq!(store.state().submitted.len(), 2);
}
