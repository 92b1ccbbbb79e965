//! Slots: no more are held than exist, and none is lost.

use super::*;
use crate::engine::SlotRef;

/// Returns how many flows are accepted one after the other before one is rejected.
fn free_slots(engine: &Engine) -> usize {
    let mut held = Vec::new();
    loop {
        let (report, ticket) = check(engine);
        if !report.accepted() {
            return held.len();
        }
        held.push(ticket);
    }
}

#[test]
fn flows_in_flight_never_exceed_the_slots_and_every_slot_is_returned() {
    explore(|| {
        let (engine, _) = engine_of(&[limiter(2.0)]);
        let (shared, inside) = (engine.clone(), InFlightGauge::default());
        run_threads(3, move |_| {
            for _ in 0..2 {
                let (report, ticket) = check(&shared);
                if report.accepted() {
                    inside.enter(2);
                    inside.leave();
                }
                drop(ticket);
            }
        });
        assert_eq!(free_slots(&engine), 2);
    });
}

#[test]
fn a_slot_is_returned_once_by_concurrent_callers() {
    explore(|| {
        let (engine, clock) = engine_of(&[limiter(2.0)]);
        let (report, ticket) = check(&engine);
        let _other = check(&engine);
        let slots: Arc<Vec<SlotRef>> = Arc::new(report.slots());
        let dropping = thread::spawn(move || drop(ticket));
        let advancing = thread::spawn(move || clock.advance(seconds(9)));
        let shared = engine.clone();
        let returned = run_threads(2, move |_| shared.flow_end(&slots, None)[0].returned);
        dropping.join().expect("it does not panic");
        advancing.join().expect("it does not panic");
        assert!(!(returned[0] && returned[1]), "it was returned twice");
        assert_eq!(free_slots(&engine), 1);
    });
}

#[test]
fn slots_that_expire_while_they_are_returned_are_not_counted_twice() {
    explore(|| {
        let (engine, clock) = engine_of(&[limiter(2.0)]);
        let shared = engine.clone();
        let advancing = thread::spawn(move || {
            for _ in 0..4 {
                clock.advance(seconds(6));
            }
        });
        run_threads(2, move |at| {
            let (_, first) = check(&shared);
            let (_, second) = check(&shared);
            if at == 0 {
                first.leave_open();
            }
            drop(second);
        });
        advancing.join().expect("it does not panic");
        assert!(free_slots(&engine) <= 2);
        // Only the slot that was left open may still be held.
        assert!(free_slots(&engine) >= 1);
    });
}

#[test]
fn tokens_of_a_failed_batch_are_returned_for_other_flows() {
    explore(|| {
        // A flow takes a slot and one of three tokens.
        let (engine, _) = engine_of(&[limiter(1.0), rate_limiter(3.0)]);
        let shared = engine.clone();
        let accepted = run_threads(3, move |_| check(&shared).0.accepted());
        let accepted = accepted.into_iter().filter(|accepted| *accepted).count();
        assert!(accepted >= 1);
        let later = (0..4).filter(|_| check(&engine).0.accepted()).count();
        assert_eq!(accepted + later, 3);
    });
}
