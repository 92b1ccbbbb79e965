//! The client's own connections: how long it waits on them, what it keeps free on them, when it
//! asks another Agent, and how it names a peer that speaks something else.
#![cfg(feature = "remote")]

mod grace;
mod peer;
mod protocols;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod undecided;

use std::time::Duration;

use tower_aperture::{ApertureClient, ApertureClientBuilder};

/// Longer than a busy machine takes; only what hangs takes as long.
const LONG: Duration = Duration::from_secs(60);

fn builder<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> ApertureClientBuilder {
    ApertureClient::builder()
        .addresses(addresses)
        .insecure(true)
        .connect_timeout(LONG)
        .check_timeout(LONG)
        .end_timeout(LONG)
        .telemetry(false)
}
