//! `cargo +nightly fuzz run policy fuzz/corpus/policy tests/fuzz/seeds/policy`
#![no_main]
#![allow(dead_code, unreachable_pub)]

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::policy(data));
