//! The client's own connections: how long checks wait on them, how many streams stay free for ends,
//! when a check goes to another Agent, and how errors name a peer with another protocol.
#![cfg(feature = "remote")]

mod grace;
mod peer;
mod protocols;
mod responses;
mod streams;
mod undecided;

use std::time::Duration;

use tower_aperture::{ApertureClient, ApertureClientBuilder};

/// A timeout that only a call that hangs reaches, even on a busy machine.
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
