//! `cargo +nightly fuzz run extract fuzz/corpus/extract tests/fuzz/seeds/extract`
#![no_main]
#![allow(dead_code, unreachable_pub)]

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::extract(data));
