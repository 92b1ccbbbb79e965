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

mod backend;
#[cfg(feature = "remote")]
mod builder;
pub(crate) mod cache;
#[cfg(all(feature = "remote", feature = "raw-protocol"))]
mod check_response;
mod counters;
mod decide;
mod flow;
mod flow_caches;
mod http;
mod late;
mod pending;
mod record;
mod settle;
mod shared;
mod start;
mod status;
mod ticket;

#[cfg(feature = "test-util")]
pub use self::backend::scripted::{RecordedFlow, Script, ScriptedDecision};
#[cfg(feature = "remote")]
pub use self::builder::{ApertureClientBuilder, BuildError};
pub use self::flow::Flow;
pub use self::pending::ClientPending;
pub use self::shared::ApertureClient;
pub use self::ticket::ClientTicket;

/// The former name of [`ScriptedDecision`].
#[cfg(feature = "test-util")]
#[deprecated = "renamed to `ScriptedDecision`"]
pub type Answer = ScriptedDecision;
