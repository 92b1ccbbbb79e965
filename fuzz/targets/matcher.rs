//! `cargo +nightly fuzz run matcher fuzz/corpus/matcher tests/fuzz/seeds/matcher`
#![no_main]
#![allow(dead_code, unreachable_pub)]

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::matcher(data));
