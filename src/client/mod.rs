//! The client, which starts flows without a layer and is the decider of a layer.
//!
//! An [`ApertureClient`] uses an Agent, an embedded engine or neither. Code that uses it is the same
//! in each case.
//!
//! ```
//! use tower_aperture::{ApertureClient, FlowParams, FlowStatus};
//!
//! # async fn work() -> Result<(), ()> { Ok(()) }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # let client = ApertureClient::disabled();
//! let flow = client.start_flow("checkout", FlowParams::new().label("user_id", "42")).await;
//! if flow.should_run() {
//!     if work().await.is_err() {
//!         flow.set_status(FlowStatus::Error);
//!     }
//! }
//! flow.end().await;
//! # });
//! ```

// Without a backend, the code that only it uses is dead.
#![cfg_attr(
    not(all(feature = "remote", feature = "embedded")),
    allow(dead_code, unreachable_code, unused_imports, unused_variables)
)]

#[cfg(feature = "remote")]
mod builder;
pub(crate) mod cache;
#[cfg(all(feature = "remote", feature = "raw-protocol"))]
mod check_response;
mod constructors;
mod counters;
mod decide;
mod flow;
mod flow_caches;
mod http;
#[cfg(feature = "remote")]
mod late;
mod pending;
mod record;
#[cfg(feature = "embedded")]
mod reporting_engine;
#[cfg(feature = "test-util")]
mod scripted;
mod settle;
mod shared;
mod start;
mod status;
mod ticket;
#[cfg(feature = "remote")]
mod unlimited;

#[cfg(feature = "remote")]
pub use self::builder::{ApertureClientBuilder, BuildError};
pub use self::flow::Flow;
pub use self::pending::ClientPending;
#[cfg(feature = "test-util")]
pub use self::scripted::{RecordedFlow, Script, ScriptedDecision};
pub use self::shared::ApertureClient;
pub use self::ticket::ClientTicket;

/// The former name of [`ScriptedDecision`].
#[cfg(feature = "test-util")]
#[deprecated = "renamed to `ScriptedDecision`"]
pub type Answer = ScriptedDecision;
