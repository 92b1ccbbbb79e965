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
mod secrets;
mod serving;
mod timeouts;
mod waiters;
mod yaml;
