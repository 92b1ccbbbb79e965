//! Slots: never more than there are, and none is lost.

use super::*;
use crate::engine::SlotRef;

/// Flows that are let in, one after the other, until one is not.
fn free(engine: &Engine) -> usize {
    let mut held = Vec::new();
    loop {
        let (report, ticket) = ask(engine);
        if !report.accepted() {
            return held.len();
        }
        held.push(ticket);
    }
}

#[test]
fn no_more_flows_are_in_than_there_are_slots_and_each_slot_comes_back() {
    explore(|| {
        let (engine, _) = engine_of(&[limiter(2.0)]);
        let (shared, inside) = (engine.clone(), Gauge::default());
        together(3, move |_| {
            for _ in 0..2 {
                let (report, ticket) = ask(&shared);
                if report.accepted() {
                    inside.enter(2);
                    inside.leave();
                }
                drop(ticket);
            }
        });
        assert_eq!(free(&engine), 2);
    });
}

#[test]
fn a_slot_comes_back_once_whoever_returns_it() {
    explore(|| {
        let (engine, clock) = engine_of(&[limiter(2.0)]);
        let (report, ticket) = ask(&engine);
        let _other = ask(&engine);
        let slots: Arc<Vec<SlotRef>> = Arc::new(report.slots());
        let dropping = thread::spawn(move || drop(ticket));
        let ageing = thread::spawn(move || clock.advance(seconds(9)));
        let shared = engine.clone();
        let returned = together(2, move |_| shared.flow_end(&slots, None)[0].returned);
        dropping.join().expect("it does not panic");
        ageing.join().expect("it does not panic");
        assert!(!(returned[0] && returned[1]), "it came back twice");
        assert_eq!(free(&engine), 1);
    });
}

#[test]
fn slots_expire_under_those_who_return_them_and_nothing_is_counted_twice() {
    explore(|| {
        let (engine, clock) = engine_of(&[limiter(2.0)]);
        let shared = engine.clone();
        let ageing = thread::spawn(move || {
            for _ in 0..4 {
                clock.advance(seconds(6));
            }
        });
        together(2, move |at| {
            let (_, first) = ask(&shared);
            let (_, second) = ask(&shared);
            if at == 0 {
                first.leave_open();
            }
            drop(second);
        });
        ageing.join().expect("it does not panic");
        assert!(free(&engine) <= 2);
        // What was left open is the only thing that may be held still.
        assert!(free(&engine) >= 1);
    });
}

#[test]
fn tokens_of_a_batch_that_fails_are_back_for_the_others() {
    explore(|| {
        // A slot, and one of three tokens.
        let (engine, _) = engine_of(&[limiter(1.0), rate_limiter(3.0)]);
        let shared = engine.clone();
        let accepted = together(3, move |_| ask(&shared).0.accepted());
        let accepted = accepted.into_iter().filter(|accepted| *accepted).count();
        assert!(accepted >= 1);
        let later = (0..4).filter(|_| ask(&engine).0.accepted()).count();
        assert_eq!(accepted + later, 3);
    });
}
