//! Queues: who waits is woken when its turn has come, and who leaves takes nothing along.

use std::pin::Pin;
use std::task::{Context, Waker};

use shuttle::sync::atomic::{AtomicBool, AtomicU64};

use super::*;
use crate::engine::clock::{Clock as _, nanos};
use crate::engine::limiters::Component;

fn is_in(starting: &mut Starting) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(starting).poll(&mut context).is_ready()
}

/// Starts, looks once whether it is in already, and goes away.
fn look_in(engine: &Engine, priority: usize) {
    is_in(&mut start(engine, priority));
}

#[test]
fn each_slot_that_comes_back_wakes_who_is_next() {
    explore(|| {
        let (engine, _) = engine_of(&[slots(2.0)]);
        let (shared, inside) = (engine.clone(), Gauge::default());
        together(4, move |at| {
            for _ in 0..2 {
                let (report, ticket) = block_on(start(&shared, 1 + at));
                assert!(report.accepted(), "it has a minute");
                inside.enter(2);
                inside.leave();
                drop(ticket);
            }
        });
        let _both = (ask(&engine), ask(&engine));
    });
}

#[test]
fn who_leaves_a_queue_takes_nothing_along() {
    explore(|| {
        let (engine, _) = engine_of(&[slots(1.0)]);
        let shared = engine.clone();
        together(4, move |at| match at {
            0 | 1 => look_in(&shared, 1 + at),
            _ => {
                let (report, ticket) = ask(&shared);
                assert!(report.accepted(), "it has a minute");
                drop(ticket);
            }
        });
        assert!(ask(&engine).0.accepted());
    });
}

#[test]
fn a_slot_that_expires_or_comes_back_by_its_name_wakes_who_is_next() {
    explore(|| {
        let (engine, clock) = engine_of(&[slots(1.0)]);
        let (report, ticket) = ask(&engine);
        ticket.leave_open();
        let ageing = thread::spawn(move || clock.advance(seconds(11)));
        let (ending, slots) = (engine.clone(), report.slots());
        let ending = thread::spawn(move || ending.flow_end(&slots, None)[0].returned);
        together(2, move |_| assert!(ask(&engine).0.accepted()));
        ageing.join().expect("it does not panic");
        ending.join().expect("it does not panic");
    });
}

#[test]
fn everybody_is_told_when_its_time_is_over_and_no_slot_goes_to_the_late() {
    explore(|| {
        let (engine, clock) = engine_of(&[slots(1.0)]);
        let (_, first) = ask(&engine);
        let ageing = thread::spawn(move || {
            for _ in 0..3 {
                clock.advance(seconds(30));
            }
        });
        let ending = thread::spawn(move || drop(first));
        let shared = engine.clone();
        // Some come in, some are too late.
        together(3, move |at| drop(block_on(start(&shared, 1 + at))));
        ending.join().expect("it does not panic");
        ageing.join().expect("it does not panic");
        let (report, _held) = ask(&engine);
        assert!(report.accepted());
        assert!(!is_in(&mut start(&engine, 1)));
    });
}

#[test]
fn tokens_that_are_waited_for_come_to_all_in_time_whoever_leaves() {
    explore(|| {
        let (engine, clock) = engine_of(&[quota(1.0, 1.0)]);
        let (over, granted) = (Arc::new(AtomicBool::new(false)), AtomicU64::new(0));
        let (ageing, stop) = (clock.clone(), Arc::clone(&over));
        let ageing = thread::spawn(move || {
            while !stop.load(SeqCst) {
                ageing.advance(seconds(1));
                thread::yield_now();
            }
        });
        let (shared, time) = (engine.clone(), clock.clone());
        together(4, move |at| {
            if at == 0 {
                return look_in(&shared, 9);
            }
            assert!(block_on(start(&shared, at)).0.accepted());
            let granted = granted.fetch_add(1, SeqCst) + 1;
            assert!(granted <= 1 + time.now().as_secs(), "{granted} too early");
        });
        over.store(true, SeqCst);
        ageing.join().expect("it does not panic");
        // Full again, and not fuller.
        clock.advance(seconds(4));
        assert!(ask(&engine).0.accepted());
        assert!(!is_in(&mut start(&engine, 1)));
    });
}

#[test]
fn a_higher_limit_wakes_those_who_wait() {
    explore(|| {
        let (engine, _) = engine_of(&[slots(0.0)]);
        let raising = engine.clone();
        let raising = thread::spawn(move || {
            let live = raising.shared.live.load_full();
            let now = nanos(raising.shared.clock.now());
            for component in live.index.components() {
                if let Component::ConcurrencyScheduler(scheduler) = &*component.limiter {
                    scheduler.set(1.0, f64::NAN, now);
                }
            }
        });
        together(2, move |_| assert!(ask(&engine).0.accepted()));
        raising.join().expect("it does not panic");
    });
}
