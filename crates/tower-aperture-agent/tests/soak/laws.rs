//! Tests the short form of the soak test, and single laws that need the same links and agents.
// The test harness shows the output of a failed run.
#![allow(clippy::print_stdout)]

use std::thread;
use std::time::Duration;

use crate::agents::Limits;
use crate::faults::Fault;
use crate::load::FlowMix;
use crate::setup::{self, Plan, Setup};

const LIMITS: Limits = Limits {
    slots: 4,
    queue: 2,
    capacity: 10,
    fill: 10,
};

#[test]
fn limits_hold_and_ends_arrive_while_components_fail() {
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

/// Many callers wait for each slot of the queue, so the scheduler rejects many flows at their
/// deadline.
#[test]
fn every_flow_is_decided_over_links_with_20_ms_delay_each_way() {
    let setup = Setup::new(2, LIMITS);
    let mix = FlowMix {
        at_queue: 100,
        at_rate: 0,
        cancelled: 0,
    };
    let load = setup.load(32, mix, 1);
    thread::sleep(Duration::from_secs(2));
    assert!(setup.stop(load), "every flow ends");
    let stats = setup.client.stats();
    assert_eq!(stats.unreachable, 0, "{stats:?}");
    assert!(stats.rejected > 0, "the scheduler rejects flows: {stats:?}");
}

#[test]
fn the_client_does_not_give_up_an_agent_stopped_for_300_ms() {
    let mut setup = Setup::new(2, LIMITS);
    let load = setup.load(32, FlowMix::MIXED, 2);
    let mut injector = setup.injector(2);
    for _ in 0..3 {
        injector.inject(Fault::AgentStall);
    }
    assert!(setup.stop(load), "every flow ends");
    let stats = setup.client.stats();
    assert_eq!(stats.agents_given_up, 0, "{stats:?}");
}

#[test]
fn a_client_stalled_for_300_ms_gives_up_no_agent() {
    let mut setup = Setup::new(2, LIMITS);
    let load = setup.load(32, FlowMix::MIXED, 3);
    let mut injector = setup.injector(3);
    for _ in 0..3 {
        injector.inject(Fault::ClientStall);
    }
    assert!(setup.stop(load), "every flow ends");
    let stats = setup.client.stats();
    assert_eq!(stats.agents_given_up, 0, "{stats:?}");
}
