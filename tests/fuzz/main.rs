//! The seeds of the fuzz targets in `fuzz/`, run once each.
#![cfg(feature = "embedded")]
#![allow(unreachable_pub)]

mod targets;

use std::path::Path;

fn run(target: &str, eat: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/seeds")
        .join(target);
    let mut count = 0;
    for seed in seeds.read_dir().expect("the seeds are there") {
        let seed = std::fs::read(seed.expect("a seed").path()).expect("it can be read");
        eat(&seed);
        // Halves of it, too: what is cut off in the middle is the commonest of all flaws.
        for cut in 0..seed.len().min(512) {
            eat(&seed[..cut]);
        }
        count += 1;
    }
    assert!(count > 0, "{target} has seeds");
}

#[test]
fn policy_files() {
    run("policy", targets::policy);
}

#[test]
fn label_patterns() {
    run("matcher", targets::matcher);
}

#[test]
fn baggage_headers() {
    run("baggage", targets::baggage);
}

#[test]
fn trace_contexts() {
    run("trace", targets::trace);
}

#[test]
fn classifier_rules() {
    run("classify", targets::classify);
}

#[cfg(feature = "response-cache")]
#[test]
fn stored_responses() {
    run("stored", |data| {
        targets::stored(data);
    });
    // They are entries of this version, but for the one that nobody may have written.
    for (seed, answers) in [
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
        assert_eq!(targets::stored(&seed), answers, "{path}");
    }
}

#[test]
fn grpc_web_bodies() {
    run("grpc_web", targets::grpc_web);
}

#[test]
fn extractors() {
    run("extract", targets::extract);
}

#[test]
fn deadlines_of_callers() {
    run("timeout", targets::timeout);
}
