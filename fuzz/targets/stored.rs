//! `cargo +nightly fuzz run stored fuzz/corpus/stored tests/fuzz/seeds/stored`
#![no_main]
#![allow(dead_code, unreachable_pub)]

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    targets::stored(data);
});
