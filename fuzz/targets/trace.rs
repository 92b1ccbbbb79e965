//! `cargo +nightly fuzz run trace fuzz/corpus/trace tests/fuzz/seeds/trace`
#![no_main]
#![allow(dead_code, unreachable_pub)]

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::trace(data));
