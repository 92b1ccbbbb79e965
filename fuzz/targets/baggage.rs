//! `cargo +nightly fuzz run baggage fuzz/corpus/baggage tests/fuzz/seeds/baggage`
#![no_main]
#![allow(dead_code, unreachable_pub)]

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::baggage(data));
