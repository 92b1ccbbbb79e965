//! `cargo +nightly fuzz run response fuzz/corpus/response tests/fuzz/seeds/response`
#![no_main]
#![allow(unreachable_pub)]

#[path = "../../tests/fuzz/response.rs"]
mod response;

libfuzzer_sys::fuzz_target!(|data: &[u8]| response::response(data));
