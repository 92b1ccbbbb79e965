//! The program `tower-aperture-agent`: its commands, options, signals and logs.
#![cfg(unix)]
// A failed test prints the log of the program.
#![allow(clippy::print_stdout)]

mod commands;
mod descriptors;
mod dry_run;
mod generated;
mod packaging;
mod program;
#[path = "../../../aperture-redis/tests/redis/server.rs"]
#[allow(dead_code)] // What only the tests of the store use.
mod redis_server;
mod secrets;
mod serving;
mod shared;
mod timeouts;
mod waiters;
mod yaml;
