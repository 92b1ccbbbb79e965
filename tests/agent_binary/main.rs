//! The program `tower-aperture-agent`, run as its users run it.
#![cfg(all(feature = "server", unix))]

mod commands;
mod program;
mod secrets;
mod serving;
