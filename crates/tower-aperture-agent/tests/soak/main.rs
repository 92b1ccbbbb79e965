//! Tests that every limit holds under load on two agents while clients, agents and links fail.
//!
//! `cargo test --release -- --ignored soak` runs the long form. It takes minutes and prints its
//! tables and the outcome of each law. Two variables change it: `TOWER_APERTURE_SOAK_FLOWS` sets
//! the number of flows, and `TOWER_APERTURE_SOAK_SEED` repeats a run as far as the timing of the
//! machine allows. The short form runs with the other tests.
#![cfg(unix)]

mod account;
mod agents;
mod faults;
mod laws;
mod link;
mod load;
mod machine;
mod random;
mod report;
mod setup;

use std::io::{Write as _, stdout};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::setup::Plan;

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, not {value:?}")),
    )
}

/// Returns the seed from the variable, or a new one for each run.
fn seed() -> u64 {
    variable("TOWER_APERTURE_SOAK_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.expect("a time after 1970").as_nanos() as u64
    })
}

#[test]
#[ignore = "soak: minutes of load"]
fn soak() {
    let seed = seed();
    let flows = variable("TOWER_APERTURE_SOAK_FLOWS").unwrap_or(1_000_000);
    // The test harness hides output of passing tests that uses the print macros.
    let _ = writeln!(stdout(), "soak of {flows} flows with seed {seed}");
    let report = setup::run(&Plan {
        flows,
        callers: 256,
        seed,
    });
    let _ = writeln!(stdout(), "{}\n{}", report.tables(), report.verdicts());
    report.assert();
}
