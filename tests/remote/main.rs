//! Tests the client against Agents: connections, checks, ends, telemetry and faults.

mod agents;
mod breaker;
mod check;
mod connection;
mod end;
mod end_to_end;
mod telemetry;
mod tls;
mod transport;

#[path = "../support/mod.rs"]
mod support;
