//! `cargo +nightly fuzz run grpc_web fuzz/corpus/grpc_web tests/fuzz/seeds/grpc_web`
#![no_main]
#![allow(dead_code, unreachable_pub)]

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::grpc_web(data));
