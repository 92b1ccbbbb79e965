//! What several test files share.
#![allow(dead_code, unreachable_pub)] // No file uses all of it.

#[cfg(feature = "remote")]
pub mod agent;
pub mod logs;
