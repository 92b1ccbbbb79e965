//! The result cache and the global cache: access to single keys, results of lookups, and the
//! interface for caches of your own.
//!
//! Flows, handles and clients give access to a key by methods of the same names. A flow has the
//! values that its check looked up; a client looks the key up.
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_aperture::{ApertureClient, FlowParams};
//! # use tower_aperture::cache::CacheError;
//!
//! # async fn profile_of(client: &ApertureClient) -> Result<(), CacheError> {
//! let params = FlowParams::new().result_cache_key("42").global_cache_key("settings");
//! let flow = client.start_flow("profile", params).await;
//! let settings = flow.global_cache("settings").get()?; // found by the check: no call
//! let profile = flow.result_cache();
//! if profile.get()?.is_none() {
//!     profile.set("Ann", Duration::from_secs(60)).await?;
//! }
//!
//! let stored = client.result_cache("profile", "42").get().await?; // a call to the Agent
//! client.global_cache("settings").delete().await?;
//! # let _ = (settings, stored);
//! # Ok(()) }
//! ```

pub use crate::client::cache::{ClientCache, FlowCache};
pub use crate::flow::{
    CacheCall, CacheChange, CacheError, CacheEvent, CacheKey, CacheLookup, CacheRefusal,
    CacheValue, Caches, Invalidations, PendingInvalidation,
};
