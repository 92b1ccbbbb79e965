//! The short form, and single laws that need the same links and agents.
// The test harness shows what a failed run printed.
#![allow(clippy::print_stdout)]

use std::thread;
use std::time::Duration;

use crate::agents::Limits;
use crate::faults::Fault;
use crate::load::Habits;
use crate::setup::{self, Plan, Setup};

const LIMITS: Limits = Limits {
    slots: 4,
    queue: 2,
    capacity: 10,
    fill: 10,
};

#[test]
fn limits_hold_and_ends_arrive_whatever_fails() {
    let seed = crate::seed();
    println!("seed {seed}");
    let report = setup::run(&Plan {
        flows: 0,
        callers: 32,
        seed,
    });
    println!("{}\n{}", report.tables(), report.verdicts());
    report.assert();
}

/// Four callers wait for each slot of a queue, so that many are turned away at their deadline.
#[test]
fn links_of_20_ms_each_way_lose_no_decision() {
    let setup = Setup::new(2, LIMITS);
    let habits = Habits {
        at_queue: 100,
        at_rate: 0,
        leave: 0,
    };
    let load = setup.load(32, habits, 1);
    thread::sleep(Duration::from_secs(2));
    assert!(setup.stop(load), "every flow ends");
    let stats = setup.client.stats();
    assert_eq!(stats.unreachable, 0, "{stats:?}");
    assert!(stats.rejected > 0, "flows wait in vain: {stats:?}");
}

#[test]
fn an_agent_stopped_for_300_ms_is_not_given_up() {
    let mut setup = Setup::new(2, LIMITS);
    let load = setup.load(32, Habits::MIXED, 2);
    let mut injector = setup.injector(2);
    for _ in 0..3 {
        injector.cause(Fault::AgentStall);
    }
    assert!(setup.stop(load), "every flow ends");
    let stats = setup.client.stats();
    assert_eq!(stats.agents_given_up, 0, "{stats:?}");
}

#[test]
fn a_client_stalled_for_300_ms_gives_no_agent_up() {
    let mut setup = Setup::new(2, LIMITS);
    let load = setup.load(32, Habits::MIXED, 3);
    let mut injector = setup.injector(3);
    for _ in 0..3 {
        injector.cause(Fault::ClientStall);
    }
    assert!(setup.stop(load), "every flow ends");
    let stats = setup.client.stats();
    assert_eq!(stats.agents_given_up, 0, "{stats:?}");
}
