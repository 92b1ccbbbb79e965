//! The program `tower-aperture-agent`, run as its users run it.
#![cfg(all(feature = "server", unix))]
// What the program logged is shown beside a failure.
#![allow(clippy::print_stdout)]

mod commands;
mod descriptors;
mod program;
mod secrets;
mod serving;
mod waiters;
