//! The gRPC calls as JSON over HTTP.

mod proto;
mod routes;

pub(super) use self::proto::{NamedMessage, POOL, decode};
pub(super) use self::routes::{JsonRouter, PATHS, error_response, router, take_grant};
