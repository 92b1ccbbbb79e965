//! `cargo +nightly fuzz run timeout fuzz/corpus/timeout tests/fuzz/seeds/timeout`
#![no_main]
#![allow(dead_code, unreachable_pub)]

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::timeout(data));
