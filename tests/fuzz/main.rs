//! Runs the fuzz targets of `fuzz/` with each of their seeds.
#![cfg(feature = "embedded")]
#![allow(unreachable_pub)]

#[cfg(feature = "remote")]
mod response;
mod targets;

use std::path::Path;

fn run_seeds(target: &str, parse: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/seeds")
        .join(target);
    let mut count = 0;
    for seed in seeds.read_dir().expect("the folder of the seeds") {
        let seed = std::fs::read(seed.expect("a seed").path()).expect("a readable seed");
        parse(&seed);
        // Truncated input is a common fault, so also run each prefix.
        for length in 0..seed.len().min(512) {
            parse(&seed[..length]);
        }
        count += 1;
    }
    assert!(count > 0, "{target} has seeds");
}

#[test]
fn policy_files_cause_no_panic() {
    run_seeds("policy", targets::policy);
}

#[test]
fn label_patterns_cause_no_panic() {
    run_seeds("matcher", targets::matcher);
}

#[test]
fn baggage_headers_cause_no_panic() {
    run_seeds("baggage", targets::baggage);
}

#[test]
fn trace_contexts_cause_no_panic() {
    run_seeds("trace", targets::trace);
}

#[test]
fn classifier_rules_cause_no_panic() {
    run_seeds("classify", targets::classify);
}

#[cfg(feature = "response-cache")]
#[test]
fn only_valid_stored_responses_are_served() {
    run_seeds("stored", |data| {
        targets::stored(data);
    });
    // All seeds are entries that this version wrote, except for the forged one.
    for (seed, is_served) in [
        ("page", true),
        ("head", true),
        ("moved", true),
        ("forged", false),
    ] {
        let path = format!(
            "{}/tests/fuzz/seeds/stored/{seed}",
            env!("CARGO_MANIFEST_DIR")
        );
        let seed = std::fs::read(&path).expect("a seed");
        assert_eq!(targets::stored(&seed), is_served, "{path}");
    }
}

#[test]
fn the_status_of_grpc_web_bodies_does_not_depend_on_frame_sizes() {
    run_seeds("grpc_web", targets::grpc_web);
}

#[test]
fn extractors_cause_no_panic() {
    run_seeds("extract", targets::extract);
}

#[test]
fn caller_deadlines_cause_no_panic() {
    run_seeds("timeout", targets::timeout);
}

#[cfg(feature = "remote")]
#[test]
fn responses_to_checks_are_read_as_prost_reads_them() {
    run_seeds("response", response::response);
}
