//! Queues: each waiter is woken when its turn has come, and one that leaves takes nothing with it.

use std::pin::Pin;
use std::task::{Context, Waker};

use shuttle::sync::atomic::{AtomicBool, AtomicU64};

use super::*;
use crate::engine::clock::{Clock as _, nanos};
use crate::engine::control::{Actuator as _, Setting};

fn is_decided(pending: &mut PendingReport) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(pending).poll(&mut context).is_ready()
}

/// Starts a flow, polls it once and drops it.
fn start_and_drop(engine: &Engine, priority: usize) {
    is_decided(&mut start(engine, priority));
}

#[test]
fn each_returned_slot_wakes_the_next_waiter() {
    explore(|| {
        let (engine, _) = engine_of(&[slots(2.0)]);
        let (shared, inside) = (engine.clone(), InFlightGauge::default());
        run_threads(4, move |at| {
            for _ in 0..2 {
                let (report, ticket) = block_on(start(&shared, 1 + at));
                assert!(report.accepted(), "it has a minute");
                inside.enter(2);
                inside.leave();
                drop(ticket);
            }
        });
        let _both = (check(&engine), check(&engine));
    });
}

#[test]
fn a_waiter_that_leaves_takes_no_slot_with_it() {
    explore(|| {
        let (engine, _) = engine_of(&[slots(1.0)]);
        let shared = engine.clone();
        run_threads(4, move |at| match at {
            0 | 1 => start_and_drop(&shared, 1 + at),
            _ => {
                let (report, ticket) = check(&shared);
                assert!(report.accepted(), "it has a minute");
                drop(ticket);
            }
        });
        assert!(check(&engine).0.accepted());
    });
}

#[test]
fn a_slot_that_expires_or_is_returned_by_id_wakes_the_next_waiter() {
    explore(|| {
        let (engine, clock) = engine_of(&[slots(1.0)]);
        let (report, ticket) = check(&engine);
        ticket.leave_open();
        let advancing = thread::spawn(move || clock.advance(seconds(11)));
        let (ending, slots) = (engine.clone(), report.slots());
        let ending = thread::spawn(move || ending.flow_end(&slots, None)[0].returned);
        run_threads(2, move |_| assert!(check(&engine).0.accepted()));
        advancing.join().expect("it does not panic");
        ending.join().expect("it does not panic");
    });
}

#[test]
fn every_waiter_ends_at_its_deadline_and_no_late_one_gets_a_slot() {
    explore(|| {
        let (engine, clock) = engine_of(&[slots(1.0)]);
        let (_, first) = check(&engine);
        let advancing = thread::spawn(move || {
            for _ in 0..3 {
                clock.advance(seconds(30));
            }
        });
        let ending = thread::spawn(move || drop(first));
        let shared = engine.clone();
        // Some are accepted, some are too late.
        run_threads(3, move |at| drop(block_on(start(&shared, 1 + at))));
        ending.join().expect("it does not panic");
        advancing.join().expect("it does not panic");
        let (report, _held) = check(&engine);
        assert!(report.accepted());
        assert!(!is_decided(&mut start(&engine, 1)));
    });
}

#[test]
fn every_waiter_gets_its_tokens_in_time_while_others_leave() {
    explore(|| {
        let (engine, clock) = engine_of(&[quota(1.0, 1.0)]);
        let (over, granted) = (Arc::new(AtomicBool::new(false)), AtomicU64::new(0));
        let (advancing, stop) = (clock.clone(), Arc::clone(&over));
        let advancing = thread::spawn(move || {
            while !stop.load(SeqCst) {
                advancing.advance(seconds(1));
                thread::yield_now();
            }
        });
        let (shared, time) = (engine.clone(), clock.clone());
        run_threads(4, move |at| {
            if at == 0 {
                return start_and_drop(&shared, 9);
            }
            assert!(block_on(start(&shared, at)).0.accepted());
            let granted = granted.fetch_add(1, SeqCst) + 1;
            assert!(granted <= 1 + time.now().as_secs(), "{granted} too early");
        });
        over.store(true, SeqCst);
        advancing.join().expect("it does not panic");
        // The bucket is full again, and no fuller than that.
        clock.advance(seconds(4));
        assert!(check(&engine).0.accepted());
        assert!(!is_decided(&mut start(&engine, 1)));
    });
}

#[test]
fn a_higher_limit_wakes_waiters() {
    explore(|| {
        let (engine, _) = engine_of(&[slots(0.0)]);
        let raising = engine.clone();
        let raising = thread::spawn(move || {
            let live = raising.shared.live.load_full();
            let now = nanos(raising.shared.clock.now());
            for component in live.index.components() {
                let setting = Setting::Slots {
                    max_concurrency: 1.0,
                    pass_through: f64::NAN,
                };
                assert!(component.component.apply(setting, now));
            }
        });
        run_threads(2, move |_| assert!(check(&engine).0.accepted()));
        raising.join().expect("it does not panic");
    });
}
