//! Tests the client without a layer: flows, slots and caches.

mod caches;
mod flows;
mod remote_caches;
mod settling;
mod shared_caches;
mod slots;

#[path = "../support/mod.rs"]
mod support;
