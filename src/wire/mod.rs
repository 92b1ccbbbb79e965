//! Converts the engine's reports and cache results to the Agent's messages.

mod cache;
mod report;

pub(crate) use self::cache::lookup_response;
#[cfg(feature = "server")]
pub(crate) use self::cache::{delete_response, upsert_response};
pub(crate) use self::report::check_response;
