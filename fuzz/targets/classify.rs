//! `cargo +nightly fuzz run classify fuzz/corpus/classify tests/fuzz/seeds/classify`
#![no_main]
#![allow(dead_code, unreachable_pub)]

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::classify(data));
