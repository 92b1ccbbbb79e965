//! The engine's answers as the Agent's messages.

mod cache;
mod report;

pub(crate) use self::cache::looked_up;
#[cfg(feature = "server")]
pub(crate) use self::cache::{deleted, upserted};
pub(crate) use self::report::check_response;
